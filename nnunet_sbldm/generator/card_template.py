"""Words of the model card, and its README.md (jinja2)."""

INTENDED_USE = (
    "Synthetic pairs of image and mask that join real training cases of a segmentation network such as nnU-Net.",
    "Research: comparing training with and without synthetic cases on real cases that the model has not seen.",
    "A start for fine-tuning on a few cases of one's own (sbldm_train -init).",
)
LIMITS = (
    "Not for diagnosis, nor for any decision about a patient; what it makes shows nobody.",
    "Synthetic cases are for training alone: never validate or test on them.",
    "It knows only the field of view, spacing, channels, contrast, labels and sizes of its training cases, and repeats their "
    "biases, those of their annotation included.",
    "Fine detail and the roughness of outlines are drawn at random, not resolved; look at a montage before use.",
    "Whether its cases help is for real held-out cases to say (sbldm_ablation); they may also harm.",
    "The list of training cases serves to refuse leaks. Salted hashes keep it from being read; they do not keep somebody who has "
    "a case, or guesses its id, from testing whether it was used.",
)

TEMPLATE = """# {{ card.title }}

A slice-based latent diffusion model (SBLDM, [arXiv 2406.05421](https://arxiv.org/abs/2406.05421)) of nnunet-sbldm: it makes 3-D
images and their masks together.

- **Licence**: {{ card.licence }}
{%- if card.initial_licence %}; of the initial model {{ card.initial }}: {{ card.initial_licence }}{% endif %}
{%- if non_commercial %}. **Non-commercial use only**, of the weights and of what they make.{% endif %}
- **Data**: {{ card.data }}
{%- if card.reference %}
- **Reference**: {{ card.reference }}
{%- endif %}
- **Training cases**: {{ card.num_training_cases }} real cases, listed in `training_cases.json`
{%- if card.is_salted %} as salted hashes{% endif %}
{%- if card.initial %}; fine-tuned from {{ card.initial }}, whose cases are among them{% endif %}

## What it makes

| | |
|---|---|
| channels | {{ card.channels | join(", ") | cell }} |
| labels | {{ card.labels | join(", ") | cell }} |
| field of view (x, y, z) | {{ card.field_of_view_mm | join(" x ") }} mm |
| spacing (x, y, z) | {{ card.spacing_mm | join(" x ") }} mm |
| grid (x, y, z) | {{ card.grid | join(" x ") }} voxels |

Sizes in the training cases, which are the range of what can be asked for:

| label | present in | volume, ml | largest extent, mm | components |
|---|---|---|---|---|
{%- for c in card.conditions %}
| {{ c.label | cell }} | {{ (100 * c.present_share) | round | int }} % | {{ c.volume_ml | range }} | {{ c.extent_mm | range }} |
{{- " " }}{{ c.num_components | range }} |
{%- endfor %}

## Use

MODEL is this folder, or the name that `sbldm_models` lists.

```
sbldm_sample -m MODEL -o samples -n 4
sbldm_expand_dataset -d DATASET --pool -f 0 -m MODEL
sbldm_train -d DATASET -f 0 -init MODEL
```

Intended use
{% for line in card.intended_use %}
- {{ line }}
{%- endfor %}

Limits
{% for line in card.limits %}
- {{ line }}
{%- endfor %}

## Measured
{% if card.evaluation %}{% set e = card.evaluation %}
{{ e.num_synthetic }} synthetic cases against {{ e.num_held_out }} real cases that the model never saw; {{ e.num_training }}
training cases give the column *real* (`sbldm_evaluate`; docs/evaluation.md says what the numbers are).
{{ "Cases that passed the quality gate, which accepts" if e.use_gate else "Raw draws; the quality gate would accept" }}
{{ (100 * e.accepted_share) | round | int }} % of first draws. {{ e.num_steps }} sampling steps, guidance {{ e.guidance_scale }};
measured on the model {{ e.generator_hash }}{% if card.is_exported %}, before it was exported{% endif %}.

| | | synthetic | real | wanted | |
|---|---|---|---|---|---|
{%- for m in e.metrics %}
| {{ m.section }} | {{ m.name | cell }} | {{ m.value | number }} | {{ m.floor | number }} | {{ m.target | cell }} |
{{- " " }}{{ {true: "reached", false: "missed"}.get(m.reached, "") }} |
{%- endfor %}

The rows *memorisation* are the audit of copies: distances to the nearest training case, relative to those of unseen real cases,
and the number of cases that lie nearer to a training case than unseen real cases do.
{% else %}
Nothing yet: `sbldm_evaluate -m MODEL` compares its cases with held-out real ones and completes this card.
{% endif %}
## Model

| | |
|---|---|
| preset | {{ card.preset | cell }} |
| parameters (autoencoder + denoiser) | {{ card.num_parameters | join(" + ") }} |
| training steps (autoencoder + denoiser), at most | {{ card.num_steps | join(" + ") }} |
| made with | nnunet-sbldm {{ card.library_version }} |
"""
