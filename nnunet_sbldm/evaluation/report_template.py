"""Words and HTML of the evaluation (jinja2); everything it shows is inside the file."""

from nnunet_sbldm.common.pages import STYLE

SECTIONS = {
    "reconstruction": {
        "title": "Reconstruction by the slice autoencoder",
        "columns": ("held-out cases", "training cases"),
        "note": "What is lost before any sampling. Held-out clearly below training means that the autoencoder has overfitted.",
    },
    "condition": {
        "title": "Condition: asked and obtained",
        "columns": ("synthetic", "real mask through the autoencoder"),
        "note": "Over the cases in which the label was asked for and is there. Centroids are fractions of the anatomy's bounding "
        "box; the error is the length of the difference. first draws: the same before the quality gate rejected any.",
    },
    "masks": {
        "title": "Masks: Wasserstein-1 distance to held-out cases, in the unit of the feature",
        "columns": ("synthetic", "training cases"),
        "note": "Equal numbers of cases on both sides, mean over random parts. contact: share of the voxels next to the first "
        "label that belong to the second. outline_roughness: log ratio of a mask's sphericity smoothed by a voxel, "
        "and as it is.",
    },
    "agreement": {
        "title": "Does the image show what the mask says?",
        "columns": ("synthetic", "held-out cases"),
        "note": "contrast: median inside the mask minus median in the shell around it, over the standard deviation in the "
        "anatomy. edge: gradient at the mask's surface over that in the anatomy. halo: share of the contrast that is left 1.5 "
        "to 3 voxels outside the mask, in channels in which it stands out.",
    },
    "coherence": {
        "title": "Coherence of neighbouring slices",
        "columns": ("synthetic", "held-out cases"),
        "note": "gradient_ratio: squared differences between slices over those within slices; above real means flicker, below "
        "means smearing. banding: jitter of the slices' mean intensity.",
    },
    "features": {
        "title": "Distribution of shape, intensity and texture features",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "Features in standard deviations of real cases. Frechet distances of few cases are biased upward: compare with "
        "the floor, which has as many. p is that of a permutation test: small means that the sets differ.",
    },
    "latents": {
        "title": "Distribution of pooled latents",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "The generator's own autoencoder sees: differences that it cannot encode do not show here.",
    },
    "nnunet": {
        "title": "Distribution of features of a trained nnU-Net",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "Means of the deepest feature maps of its encoder. It was trained on the training cases, so the floor says how "
        "far held-out cases look to it from what it knows.",
    },
    "diversity": {
        "title": "Diversity",
        "columns": ("synthetic pairs", "held-out pairs"),
        "note": "Similarity of random pairs of cases. Well above real: the cases are too much alike. Well below real is "
        "not better.",
    },
    "memorisation": {
        "title": "Memorisation",
        "columns": ("synthetic", "real"),
        "note": "Median distance of synthetic cases to their nearest training case over that of held-out cases, mirrored cases "
        "included. Flagged: nearer to a training case than any held-out case is; the second column says how many of as many real "
        "cases would be. No case below the smallest distance of a held-out case goes unflagged.",
    },
}

TEMPLATE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SBLDM evaluation: {{ result.dataset.name }}, fold {{ result.generator.fold }}</title>
<style>"""
    + STYLE
    + """  table { font-size: 13.5px; width: 100%; }
  td:first-child { width: 28%; }
  td.details { width: 30%; color: #7a8492; font-size: 12px; text-align: left; }
  .left { text-align: left; }
  .yes { color: #10703c; font-weight: 600; }
  .no { color: #b3261e; font-weight: 600; }
</style>
</head>
<body>
<main>
<h1>SBLDM evaluation</h1>
<p class="lead">{{ result.dataset.name }}, fold {{ result.generator.fold }}, preset {{ result.generator.preset }}:
{{ result.num_cases.synthetic }} synthetic cases against {{ result.num_cases.held_out }} real cases that the generator never saw;
{{ result.num_cases.training }} training cases give the floor.</p>
<p class="note">{% if result.gate.used %}Cases are as an expansion writes them: what the quality gate rejects is drawn again
or given up.{% else %}Raw draws: the quality gate was asked, but rejected nothing.{% endif %}
It accepts {{ (100 * result.gate.first_draws_accepted_share) | round(1) }} % of first draws
{%- if result.gate.used %} and, after redraws, gave {{ (100 * result.gate.cases_accepted_share) | round(1) }} % of the cases asked
{%- endif %} ({{ result.gate.draws }} draws{% for reason, count in result.gate.reasons.items() %}
{{- "; rejected for " if loop.first else ", " }}{{ reason }} {{ count }}{% endfor %}).</p>
{% for warning in result.warnings %}<p class="warning">{{ warning }}</p>
{% endfor %}<div class="tiles">
<div class="tile"><b>{{ reached }} of {{ num_targets }}</b><span>targets reached</span></div>
<div class="tile"><b>{{ flagged | length }}</b><span>cases flagged as near copies</span></div>
<div class="tile"><b>{{ result.sampler.num_steps }} / {{ result.sampler.guidance_scale }}</b><span>steps / guidance</span></div>
<div class="tile"><b>{{ (100 * result.gate.first_draws_accepted_share) | round | int }} %</b><span>of first draws pass the
quality gate</span></div>
<div class="tile"><b>{{ result.seconds_per_draw | round(2) }} s</b><span>per draw</span></div>
<div class="tile"><b>{{ result.seconds }} s</b><span>on {{ result.versions.device }}</span></div>
</div>

<h2>Best, median and worst</h2>
<p class="note">By distance to the nearest real case in shape, intensity and texture; left the synthetic case, right its nearest
training case as a pair. Axial, coronal and sagittal plane through the largest cross-sections of the foreground.</p>
<img alt="Synthetic cases beside their nearest training cases" src="{{ montages.typical }}">
<h2>Nearest to a training case</h2>
<p class="note">The synthetic cases with the smallest distance of all as a pair: if any is a copy, it is one of these.</p>
<img alt="Synthetic cases nearest to a training case" src="{{ montages.nearest }}">

<h2>Condition</h2>
{% for target, picture in scatters.items() %}<h3>{{ target }}</h3>
<img alt="Asked against obtained size and place of {{ target }}" src="{{ picture }}">
{% endfor %}

<h2>Numbers</h2>
{% for section in sections %}<h3>{{ section.title }}</h3>
<p class="note">{{ section.note }}</p>
<div class="scroll"><table>
<tr><th></th><th>{{ section.columns[0] }}</th><th>{{ section.columns[1] }}</th><th>n</th><th class="left">target</th>
<th>reached</th><th class="left">details</th></tr>
{% for row in section.rows %}<tr><td>{{ row.name }}</td><td><b>{{ row.value }}</b></td><td>{{ row.floor }}</td>
<td>{{ row.num_cases }}</td><td class="left">{{ row.target }}</td><td class="{{ row.reached }}">{{ row.reached }}</td>
<td class="details">{{ row.details }}</td></tr>
{% endfor %}</table></div>
{% endfor %}

<h2>Flagged cases</h2>
{% if flagged %}<div class="scroll"><table>
<tr><th>case</th><th>seed</th><th class="left">nearest training case</th></tr>
{% for row in flagged %}<tr><td>{{ row[0] }}</td><td>{{ row[1] }}</td><td class="left">{{ row[2] }}</td></tr>
{% endfor %}</table></div>{% else %}<p>None.</p>{% endif %}

<h2>Circumstances</h2>
<p class="note">Generator {{ result.generator.hash }} in {{ result.generator.folder }}; plans {{ result.dataset.plans }},
configuration {{ result.dataset.configuration }};
{%- if result.nnunet %} nnU-Net {{ result.nnunet }};{% endif %} seed {{ result.seed }};
nnunet-sbldm {{ result.versions.nnunet_sbldm }}, torch
{{ result.versions.torch }}, Python {{ result.versions.python }}. All numbers are in evaluation.json.</p>
</main>
</body>
</html>
"""
)
