"""The form of `report.html`: the page, its looks in light and dark, and the script that opens what a click leads to."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page:#f6f7f9; --card:#fff; --ink:#1c2430; --soft:#5b6675; --line:#dde2e9;
  --prefill:#3b7dd8; --decode:#e07b1a; --encode:#2f9e62; --vision:#8a5cd6; --cross_attention:#d4528e;
  --training_forward:#1d9aa8; --training_backward:#cc4545; --other:#8391a3; --end:#aab4c1; --cut:#d3322f;
  --d0:#2b5fb0; --d1:#b8610c; --d2:#2b7d4f; --d3:#7443bd; --d4:#a8376d; --d5:#176f79; }
@media (prefers-color-scheme: dark) { :root { --page:#12161c; --card:#1b2129; --ink:#e6eaf0; --soft:#9aa6b5;
  --line:#323b47; --prefill:#5b9bf0; --decode:#f0963c; --encode:#4fbf82; --vision:#a681ec; --cross_attention:#e878ab;
  --training_forward:#40bccb; --training_backward:#ea6a6a; --other:#8391a3; --end:#5b6675; --cut:#ff6b66;
  --d0:#7fb2f5; --d1:#f5b06b; --d2:#7fd6a6; --d3:#c1a5f5; --d4:#f0a0c6; --d5:#76d5e0; } }
* { box-sizing: border-box; }
body { margin:0; padding:28px; background:var(--page); color:var(--ink);
  font:14px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width:1480px; margin:0 auto; }
h1 { font-size:22px; margin:0 0 2px; } h2 { font-size:15px; margin:0 0 10px; }
.soft { color:var(--soft); } p { margin:4px 0; }
.pill { display:inline-block; padding:2px 11px; border-radius:12px; color:#fff; background:var(--c); font-size:13px;
  font-weight:600; vertical-align:3px; margin-left:8px; }
.tiles { display:flex; flex-wrap:wrap; gap:12px; margin:18px 0; }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:10px 16px; min-width:126px; }
.tile b { display:block; font-size:18px; font-variant-numeric:tabular-nums; }
.columns { display:flex; flex-wrap:wrap; gap:18px; align-items:flex-start; }
.columns > * { flex:1 1 560px; min-width:0; }
.columns > .picture { flex:1 1 430px; }
.card { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:16px 18px; margin-bottom:18px;
  overflow-x:auto; }
.picture svg { display:block; margin:0 auto; max-width:100%; height:auto; }
.picture svg.wide { max-width:none; } td code { white-space:nowrap; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
th { text-align:left; font-weight:600; color:var(--soft); font-size:12px; }
th, td { padding:4px 12px 4px 0; border-bottom:1px solid var(--line); vertical-align:top; }
tr:last-child td { border-bottom:0; } td.n, th.n { text-align:right; white-space:nowrap; }
tr.sum td { font-weight:600; }
code { font:12px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap:anywhere; }
.legend { display:flex; flex-wrap:wrap; gap:6px 16px; margin:0 0 12px; font-size:12px; color:var(--soft); }
.legend i { display:inline-block; width:12px; height:12px; border-radius:3px; background:var(--c); margin-right:5px;
  vertical-align:-2px; }
.legend i.ring { background:none; border:2px solid var(--c); border-radius:50%; }
.legend i.dash { height:0; width:20px; border-top:2px dashed var(--cut); border-radius:0; vertical-align:4px; }
details { border-top:1px solid var(--line); padding:6px 0; } summary { cursor:pointer; }
details:target > summary { color:var(--decode); font-weight:600; }
svg text { fill:var(--ink); font-size:12px; } svg .name { font-size:13px; font-weight:600; }
svg .fact { fill:var(--soft); font-size:11.5px; }
.frame { fill:color-mix(in srgb, var(--c) 14%, var(--card)); stroke:var(--e, var(--c)); stroke-width:2; }
a:hover .frame { stroke-width:3.5; }
.arrow { fill:none; stroke:var(--soft); stroke-width:1.3; opacity:.75; } .head path { fill:var(--soft); }
.arrow.cut { stroke:var(--cut); stroke-width:2.4; stroke-dasharray:7 4; opacity:1; } .cut-head path { fill:var(--cut); }
svg .cut-label { fill:var(--cut); font-weight:600; paint-order:stroke; stroke:var(--card); stroke-width:4px; }
.badge circle { fill:var(--e); } svg .badge text { fill:var(--card); font-size:11px; font-weight:700; }
.tick { stroke:var(--line); stroke-width:1; fill:none; } svg.timeline .fact { font-size:11px; }
.bar rect { fill:color-mix(in srgb, var(--e, var(--end)) 38%, var(--card)); stroke:var(--e, var(--end)); }
.bar text { font-size:11px; pointer-events:none; } .measured .bar rect { fill:var(--e, var(--end)); }
.measured .bar text { fill:var(--card); font-weight:700; }
.cache path, .cache ellipse { fill:color-mix(in srgb, var(--c) 45%, var(--card)); stroke:var(--e, var(--c));
  stroke-width:1.4; }
"""

PHASES = (
    "prefill", "decode", "encode", "vision", "cross_attention", "training_forward", "training_backward", "other",
)  # fmt: skip
N_DEVICES = 6

COLOURS = "\n".join(
    [f".phase-{phase} {{ --c:var(--{phase}); }}" for phase in (*PHASES, "end")]
    + [f".device-{number} {{ --e:var(--d{number}); }}" for number in range(N_DEVICES)]
)

SCRIPT = """
const openBox = () => {
  const box = document.getElementById(location.hash.slice(1));
  if (box) box.open = true;
};
addEventListener("hashchange", openBox);
openBox();
"""

PAGE = """\
{% macro show(table) %}
<table id="{{ table.id }}"><thead><tr>
{% for name in table.columns %}<th{% if loop.index0 in table.numeric %} class="n"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead><tbody>
{% for row in table.rows %}
<tr{% if "total" in row %} class="sum"{% endif %}>
{% for cell in row %}<td{% if loop.index0 in table.numeric %} class="n"{% endif %}>{{ cell }}</td>{% endfor %}
</tr>
{% endfor %}
</tbody></table>
{% endmacro %}
{% set phase = report.phase or "other" %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ report.name }} - dynamo_genie</title><style>{{ style }}</style></head><body><main>
<h1>Graph {{ report.name }}<span class="pill phase-{{ phase }}">{{ phase | replace("_", " ") }}</span></h1>
{% for line in report.phase_evidence %}<p class="soft">because {{ line }}</p>{% endfor %}
<div class="tiles">
{% for name, value in tiles %}<div class="tile"><b>{{ value }}</b>{{ name }}</div>{% endfor %}
</div>
<div class="columns"><section class="picture"><div class="card">
<h2>The graph, a box for each layer; click one for its nodes</h2>
<div class="legend">
{% for phase in phases %}<span><i class="phase-{{ phase }}"></i>{{ phase | replace("_", " ") }}</span>{% endfor %}
{% for number, letter, device in devices %}
<span><i class="ring" style="--c:var(--d{{ number }})"></i>{{ letter }}  {{ device }}</span>
{% endfor %}
{% if has_caches %}<span>drum: holds a KV cache</span>{% endif %}
{% if has_cuts %}<span><i class="dash"></i>cut, with its bytes a call</span>{% endif %}
</div>
{{ picture }}
</div></section><section>
{% for table in tables %}
<div class="card"><h2>{{ table.title }}</h2>
{% if table.summary %}<details><summary>{{ table.summary }}</summary>{{ show(table) }}</details>
{% else %}{{ show(table) }}{% endif %}
{% for line in table.remarks %}<p class="soft">{{ line }}</p>{% endfor %}
</div>
{% endfor %}
</section></div>
{% for title, timeline, remarks in timelines %}
<div class="card"><h2>{{ title }}</h2>{{ timeline }}
{% for line in remarks %}<p class="soft">{{ line }}</p>{% endfor %}
</div>
{% endfor %}
<div class="card"><h2>Nodes</h2>
{% for box, nodes in boxes %}
<details id="box-{{ loop.index0 }}"><summary>{{ box.name }}  <span class="soft">{{ nodes.rows | length }} nodes
{%- if box.device %}, {{ box.device }}{% endif %}</span></summary>{{ show(nodes) }}</details>
{% endfor %}
</div></main><script>{{ script }}</script></body></html>
"""
"""What `report_html` fills in, a template of jinja's."""
