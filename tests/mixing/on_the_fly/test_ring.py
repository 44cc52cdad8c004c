import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from worker_tasks import identifiers_and_first_properties

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.mixing.on_the_fly.ring import DrawCounter, RingReader, RingWriter, corrupt_cases

SHAPE = (1, 6, 8, 7)


def case_writer(case_id, value=1.0):
    def write(folder):
        data, seg = np.full(SHAPE, value, np.float32), np.zeros(SHAPE, np.int16)
        sizes = dict.fromkeys(("chunks", "blocks", "chunks_seg", "blocks_seg"), SHAPE)
        nnUNetDatasetBlosc2.save_case(data, seg, {"value": value}, str(folder / case_id), **sizes)

    return write


def publish(ring, *numbers):
    for n in numbers:
        ring.publish(f"case_{n}", case_writer(f"case_{n}", n))


def draw(reader, case_id, times=1):
    return [reader.load_case(case_id) for _ in range(times)]


def test_before_the_first_case_nothing_is_ready(tmp_path):
    assert RingReader(tmp_path / "ring").identifiers == ()
    RingWriter(tmp_path / "ring", 2, 2)
    assert RingReader(tmp_path / "ring").identifiers == ()


def test_a_published_case_is_loaded_as_nnunet_loads_it(tmp_path):
    publish(RingWriter(tmp_path, 2, 2), 3)
    reader = RingReader(tmp_path)
    assert reader.identifiers == ("case_3",)
    data, seg, previous, properties = reader.load_case("case_3")
    assert (np.asarray(data[:]) == 3).all()
    assert seg.shape == SHAPE
    assert previous is None
    assert properties == {"value": 3}


def test_a_full_ring_loses_the_oldest_case_to_a_new_one(tmp_path):
    ring, reader = RingWriter(tmp_path, 2, 2), RingReader(tmp_path)
    publish(ring, 1, 2)
    assert not ring.wants_case()
    publish(ring, 3)
    assert reader.identifiers == ("case_2", "case_3")


def test_a_case_drawn_often_enough_is_replaced_when_there_is_a_new_one(tmp_path):
    ring, reader = RingWriter(tmp_path, 2, 3), RingReader(tmp_path)
    publish(ring, 1, 2)
    assert reader.identifiers
    draw(reader, "case_2", 2)
    assert not ring.wants_case()
    draw(reader, "case_2")
    assert ring.wants_case()
    assert reader.identifiers == ("case_1", "case_2")
    publish(ring, 3)
    assert reader.identifiers == ("case_1", "case_3")
    assert not ring.wants_case()


def test_a_case_that_left_the_ring_can_be_loaded_for_a_while(tmp_path):
    ring, reader = RingWriter(tmp_path, 1, 1, grace_s=0.3), RingReader(tmp_path)
    publish(ring, 1)
    drawn = reader.identifiers[0]
    publish(ring, 2)
    ring.wants_case()
    kept = reader.load_case(drawn)
    time.sleep(0.3)
    ring.wants_case()
    assert (np.asarray(kept[0][:]) == 1).all()
    with pytest.raises(FileNotFoundError):
        reader.load_case(drawn)


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_corrupt_case_is_never_loaded_and_leaves_the_ring(tmp_path, ending):
    ring, reader = RingWriter(tmp_path, 2, 2), RingReader(tmp_path)
    publish(ring, 1, 2)
    path = tmp_path / "cases" / "case_1" / f"case_1{ending}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert reader.identifiers == ("case_1", "case_2")
    with pytest.raises(FileNotFoundError, match="corrupt"):
        reader.load_case("case_1")
    assert reader.identifiers == ("case_2",)
    assert corrupt_cases(tmp_path) == {"case_1"}
    assert ring.wants_case()
    assert RingReader(tmp_path).identifiers == ("case_2",)


def test_draws_of_all_readers_are_counted_once(tmp_path):
    publish(RingWriter(tmp_path, 2, 2), 1)
    counter, another = DrawCounter(tmp_path), tmp_path / "draws" / "another"
    for n in (1, 2):
        draw(RingReader(tmp_path), "case_1")
        counter.refresh()
        assert counter.counts == {"case_1": n}
    another.write_text("case_1\ncase_")
    counter.refresh()
    assert counter.counts == {"case_1": 3}
    another.write_text("case_1\ncase_2\n")
    counter.refresh()
    assert counter.counts == {"case_1": 3, "case_2": 1}


def test_what_a_failing_writer_began_is_not_seen(tmp_path):
    ring = RingWriter(tmp_path, 2, 2)

    def write(folder):
        (folder / "case_1.pkl").write_bytes(b"")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        ring.publish("case_1", write)
    assert RingReader(tmp_path).identifiers == ()
    assert list((tmp_path / "cases").iterdir()) == []
    publish(ring, 1)
    assert RingReader(tmp_path).identifiers == ("case_1",)


def test_another_writer_takes_over(tmp_path):
    publish(RingWriter(tmp_path, 2, 2), 1, 2, 3)
    (tmp_path / "cases" / "case_4").mkdir()
    ring = RingWriter(tmp_path, 2, 2, grace_s=0)
    assert not ring.wants_case()
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == ["case_2", "case_3"]
    publish(ring, 4)
    assert RingReader(tmp_path).identifiers == ("case_3", "case_4")


def test_a_worker_started_afresh_reads_the_ring(tmp_path):
    publish(RingWriter(tmp_path, 2, 2), 1)
    reader = pickle.loads(pickle.dumps(RingReader(tmp_path)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(identifiers_and_first_properties, [reader]) == (("case_1",), {"value": 1})


def test_readers_racing_with_retirement_never_see_half_a_case(tmp_path):
    ring, over = RingWriter(tmp_path, 2, 1, grace_s=0.02), threading.Event()
    wrong, loaded, gone = [], [], []

    def read():
        reader = RingReader(tmp_path)
        while not over.is_set():
            for case_id in reader.identifiers:
                try:
                    data, _, _, properties = reader.load_case(case_id)
                    is_whole = f"case_{properties['value']}" == case_id and (data[:] == properties["value"]).all()
                    (loaded if is_whole else wrong).append(1)
                except FileNotFoundError:
                    gone.append(1)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(60):
        publish(ring, n)
        ring.wants_case()
    over.set()
    for reader in readers:
        reader.join()
    assert (len(wrong), corrupt_cases(tmp_path)) == (0, set())
    assert len(loaded) > 20


def test_a_writer_killed_at_any_moment_leaves_whole_cases_alone(tmp_path):
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from test_ring import publish; from nnunet_sbldm.mixing.on_the_fly.ring import RingWriter\n"
        "ring = RingWriter(Path(sys.argv[1]), 3, 1); print('ready', flush=True)\n"
        "for n in itertools.count(int(sys.argv[2])): publish(ring, n)"
    )
    for round_ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(1000 * round_)], stdout=subprocess.PIPE,
                                   env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])})
        process.stdout.readline()
        time.sleep(0.3)
        process.kill()
        process.communicate()
        reader = RingReader(tmp_path)
        for case_id in reader.identifiers:
            assert f"case_{reader.load_case(case_id)[3]['value']}" == case_id
    RingWriter(tmp_path, 3, 1)
    assert not list(tmp_path.glob(".sbldm_tmp_*"))
    assert json.dumps(read_json(tmp_path / "ready.json"))


def test_the_reader_loads_neither_the_generator_nor_its_libraries():
    code = ("import sys, nnunet_sbldm.mixing.on_the_fly.ring\n"
            "heavy = {'diffusers', 'nnunet_sbldm.generator.checkpoint', 'nnunet_sbldm.mixing.on_the_fly.source'}\n"
            "assert not heavy & set(sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
