"""HTML of the demo's report (jinja2); everything it shows is inside the file."""

from nnunet_sbldm.common.pages import STYLE

TEMPLATE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SBLDM demo</title>
<style>"""
    + STYLE
    + """  img.narrow { max-width: 640px; }
  th, td { white-space: nowrap; }
  tr.sum td { font-weight: 600; background: #fafbfc; }
  .wrap { white-space: normal; text-align: left; overflow-wrap: anywhere; }
  td.wrap { font: 12.5px/1.4 ui-monospace, Menlo, Consolas, monospace; }
  pre { background: #1c2430; color: #e6e9ee; border-radius: 6px; padding: 12px 16px; overflow-x: auto; font-size: 13px; }
  code { font-family: ui-monospace, Menlo, Consolas, monospace; }
  details summary { cursor: pointer; color: #2c5aa0; }
</style>
</head>
<body>
<main>
<h1>SBLDM demo</h1>
<p class="lead">A slice-based latent diffusion model learned {{ num_training_cases }} made-up heads with tumours of known size and
place, drew {{ num_synthetic }} new ones with their masks, and nnU-Net trained on both.</p>
<div class="tiles">
{% for tile in tiles %}<div class="tile"><b>{{ tile.value }}</b><span>{{ tile.name }}</span></div>
{% endfor %}</div>

<h2>Real and synthetic cases</h2>
<p>Preprocessed by nnU-Net, as its network sees them: axial, coronal and sagittal plane through the largest cross-sections of
the foreground, with the mask's outline. The first cases of fold {{ fold }}'s training set and of its pool, not chosen by eye.</p>
<img alt="Real and synthetic cases in three planes" src="{{ pictures.cases }}">

<h2>Asked and obtained condition</h2>
<p>Each synthetic case was asked for a size and a place; what it has is measured on its own mask, as on a real one.
Places are fractions of the head's bounding box along slices (d), rows (h) and columns (w).</p>
{% for condition in conditions %}
<h3>{{ condition.label }}</h3>
<img alt="Asked against obtained volume and centroid" src="{{ condition.picture }}">
<p>{{ condition.summary }}</p>
<details><summary>All {{ condition.rows | length }} cases</summary>
<div class="scroll"><table>
<tr><th>case</th><th>volume asked (ml)</th><th>place asked (d, h, w)</th><th>volume obtained (ml)</th><th>place obtained</th>
<th>distance</th></tr>
{% for row in condition.rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div></details>
{% endfor %}

<h2>Dice of the trained nnU-Net</h2>
<p>Measured by nnU-Net on real cases only, after few short epochs of a small network. These numbers show that the
path works, not that synthetic cases help: that takes a comparison with training on real cases alone.</p>
<div class="scroll"><table>
<tr><th>case</th><th>set</th>{% for name in dice_labels %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in dice_rows %}<tr{% if row.is_mean %} class="sum"{% endif %}><td>{{ row.case }}</td><td>{{ row.set }}</td>
{% for value in row.dice %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>

<h2>Training</h2>
<p>The generator: slice autoencoder, then denoiser of the stacked slice latents.</p>
<img alt="Loss curves of the generator" src="{{ pictures.curves }}">
{% if pictures.reconstructions %}<p>Training cases and their reconstructions by the autoencoder.</p>
<img alt="Reconstructions" src="{{ pictures.reconstructions }}">{% endif %}
{% if pictures.progress %}<details><summary>nnU-Net's own progress plot</summary>
<img class="narrow" alt="Progress of nnU-Net" src="{{ pictures.progress }}"></details>{% endif %}

<h2>Time and memory</h2>
<p>Memory is that of all processes of a step together, shared pages counted once, at its largest of four samples a second.
The commands ran in <code>{{ output }}</code> with <code>nnUNet_raw</code>, <code>nnUNet_preprocessed</code> and
<code>nnUNet_results</code> set to the folders of these names in it.</p>
<div class="scroll"><table>
<tr><th>step</th><th>time (min)</th><th>memory (GB)</th><th class="wrap">command</th></tr>
{% for step in steps %}<tr><td>{{ step.title }}</td><td>{{ step.time }}</td><td>{{ step.memory }}</td>
<td class="wrap">{{ step.command }}</td></tr>
{% endfor %}<tr class="sum"><td>total, largest</td><td>{{ total_time }}</td><td>{{ largest_memory }}</td><td></td></tr>
</table></div>
<p>{{ machine }}</p>

<h2>Where everything lies</h2>
<p>Below <code>{{ output }}</code>:</p>
<div class="scroll"><table>
{% for name, place in places %}<tr><td>{{ name }}</td><td class="wrap">{{ place }}</td></tr>
{% endfor %}</table></div>

<h2>The same with your own data</h2>
<p>For a dataset in nnU-Net's raw format, here with the number 4; <code>nnUNet_raw</code>, <code>nnUNet_preprocessed</code> and
<code>nnUNet_results</code> are set as for nnU-Net.</p>
<pre>{{ own_data }}</pre>
</main>
</body>
</html>
"""
)

OWN_DATA = """nnUNetv2_plan_and_preprocess -d 4 -c 3d_fullres
sbldm_train -d 4 -f 0                                   # the generator: training cases of fold 0 only
sbldm_expand_dataset -d 4 --pool -f 0 -ratio 1.0        # synthetic cases for fold 0, beside the real ones
nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerSBLDM    # nnU-Net with synthetic cases mixed in
nnUNetv2_predict -d 4 -c 3d_fullres -f 0 -tr nnUNetTrainerSBLDM -i IN -o OUT

# or a new dataset 104 that any nnU-Net trainer can use
sbldm_expand_dataset -d 4 -o 104 -f 0 -ratio 1.0
nnUNetv2_train 104 3d_fullres 0"""
