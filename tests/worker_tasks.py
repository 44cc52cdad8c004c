"""What workers run in tests: one that is started afresh imports it by name, and test files have none."""

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_sbldm.mixing.dataset import ReadySource


class Cases(ReadySource):
    """Cases by name alone; loading one returns where it came from."""

    def __init__(self, origin, identifiers):
        self.origin, self.identifiers, self.gone = origin, list(identifiers), set()

    def load_case(self, identifier):
        if identifier in self.gone:
            raise FileNotFoundError(identifier)
        return self.origin, identifier


class KeyLoader(nnUNetDataLoader):
    """nnU-Net's loader, drawing as it does and looking at nothing of what it loads."""

    def generate_train_batch(self):
        keys = self.get_indices()
        for key in keys:
            self._data.load_case(key)
        return {"keys": keys}


def identifiers_and_first_properties(reader):
    return reader.identifiers, reader.load_case(reader.identifiers[0])[3]


def shape_of(dataset, case_id):
    return tuple(dataset.load_case(case_id)[0].shape)
