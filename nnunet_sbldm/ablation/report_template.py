"""HTML of a study's report (jinja2); everything it shows is inside the file."""

from nnunet_sbldm.common.pages import STYLE

TEMPLATE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SBLDM ablation</title>
<style>"""
    + STYLE
    + """  .verdicts { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin: 18px 0 4px; }
  .verdicts div { background: #fff; border: 1px solid #dfe3e9; border-radius: 8px; padding: 10px 16px; }
  .verdicts b { display: block; font-size: 17px; }
  th, td { white-space: nowrap; }
  td.wrap { white-space: normal; text-align: left; overflow-wrap: anywhere; }
</style>
</head>
<body>
<main>
<h1>SBLDM ablation: {{ dataset }}</h1>
<p>nnU-Net trained on {{ num_cases }} real cases with and without synthetic ones, tested on the same {{ num_test }} real
cases that no generator, plan or choice of a checkpoint has seen ({{ num_generators }} generators checked by id and content).
{{ num_runs }} of {{ num_planned }} trainings are in this report.</p>
{% if unfinished %}<p class="warning"><b>{{ unfinished | length }} jobs are not done.</b> Their arms are missing or have fewer
runs; see the end of this page.</p>{% endif %}
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}

<div class="verdicts">
{% for name, entries in verdicts.items() %}<div><b>{{ name }}: {{ entries | length }}</b>
{{ entries | join("; ") or "none" }}</div>
{% endfor %}</div>
<p>Compared with <code>{{ reference }}</code> at the same number of real cases. Better or worse: the {{ confidence }}
interval of the paired difference excludes 0, and the signed-rank test, adjusted after Holm over all differences
to it, is significant. Tends: the interval alone excludes 0. Mixed: both, in opposite directions, as where few gain much and
most lose a little.{% if units != "cases" %} Scores of a patient's scans are averaged, so that patients are compared.
{% endif %}</p>

{% if differences %}<h2>Differences to {{ reference }}</h2>
<img alt="Difference in Dice points with interval, for each arm and number of real cases" src="{{ differences }}">
<p>Blue: better or tends better; orange: worse or tends worse; grey: no difference shown, or mixed.</p>{% endif %}

<h2>Dice of the test cases</h2>
{% for n, rows in tables.items() %}
<h3>{{ n }} real training cases</h3>
<div class="scroll"><table>
<tr><th>arm</th><th>runs</th><th>synthetic draws, asked</th><th>drawn</th>
<th>Dice [{{ confidence }} CI]</th><th>difference in points [CI]</th>
<th>{{ units }} better / worse</th><th>p</th><th>p (Holm)</th><th>verdict</th></tr>
{% for row in rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endfor %}

{% if baseline_rows %}<h2>Compared with copy-paste</h2>
<p>Difference to <code>{{ baseline }}</code> at the same number of real cases, in Dice points; Holm's adjustment is over the
comparisons of this table.</p>
<div class="scroll"><table>
<tr><th>arm</th><th>real cases</th><th>difference in points [CI]</th><th>p (Holm)</th><th>verdict</th></tr>
{% for row in baseline_rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}

<h2>Learning curves</h2>
<img alt="Dice against number of real training cases" src="{{ curves }}">

<h2>Effect by size of the foreground</h2>
<p>Difference to <code>{{ reference }}</code> in Dice points, mean and interval, on the third of the test {{ units }} with the
smallest, middle and largest foreground ({{ thirds }}).</p>
<div class="scroll"><table>
<tr><th>arm</th><th>real cases</th><th>small</th><th>middle</th><th>large</th></tr>
{% for row in size_rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>

<h2>Structures and further metrics</h2>
<div class="scroll"><table>
<tr><th>arm</th><th>real cases</th><th>training loss</th>{% for name in metrics %}<th>{{ name }}</th>{% endfor %}
<th>missed voxels</th><th>false voxels</th></tr>
{% for row in metric_rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p>Precision: share of the predicted voxels that are right; recall: share of the reference that is found; means of the test cases
that have such voxels. A structure that a case does not have scores 1 where none is predicted and 0 where some is. Missed and
false voxels: per test case{% if several %} and structure{% endif %}, means.
Training loss: of nnU-Net, mean of the last five epochs. <i>of 23</i>: the mean is of 23 values alone, as precision has none where
nothing is predicted{% if surface %}, and HD95 none where a structure is missing on one side{% endif %}; an arm that finds less
may then have the better mean.</p>
{% if not surface %}<p>NSD and HD95 were not measured (<code>evaluation: surface_distances</code>).</p>{% endif %}

<h2>The cases</h2>
<img alt="Volume and brightness of the foreground of each case" src="{{ cases }}">
<div class="scroll"><table>
<tr><th>cases</th><th>number</th><th>foreground in ml, median (range)</th>
{% for name in channels %}<th>brightness AUC, {{ name }}</th>{% endfor %}</tr>
{% for row in case_rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p>Are the training cases like the test cases? A dot per case, a line at the median. Brightness AUC: the probability that a voxel
of the foreground is brighter than one of its surroundings; 0.5 where brightness alone tells nothing. Pasted and synthetic
lesions repeat what few training cases have, also what no test case has.</p>

<h2>Best, median and worst test case</h2>
<p>Of the first fold and seed at the smallest number of real cases; reference above, prediction below.</p>
{% for arm, picture in pictures %}<h3>{{ arm }}</h3><img alt="Test cases of {{ arm }}" src="{{ picture }}">
{% endfor %}

<h2>Time</h2>
<p>Summed over all runs of an arm, in minutes. Generator and synthetic cases are shared between arms and count here for each
that uses them. GPU hours are the wall-clock time of jobs that use the GPU; jobs that share one count in full.</p>
<div class="scroll"><table>
<tr><th>arm</th><th>training</th><th>prediction</th><th>generator and synthetic cases</th><th>GPU hours</th></tr>
{% for row in time_rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>

<h2>Methods</h2>
<p>{{ methods }}</p>

{% if unfinished %}<h2>Jobs that are not done</h2>
<div class="scroll"><table>
<tr><th>job</th><th>state</th><th>reason</th></tr>
{% for job in unfinished %}<tr><td>{{ job.job }}</td><td>{{ job.state }}</td><td class="wrap">{{ job.error }}</td></tr>
{% endfor %}</table></div>{% endif %}
</main>
</body>
</html>
"""
)
