"""The page's looks. Series colours: Okabe and Ito's palette for colour-blind readers, darker or lighter by the ground."""

from saga_sim.report.markup import Markup

CSS = Markup("""
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--ground:#fff;--panel:#f6f8fa;--rule:#d0d7de;
--c0:#1b1f24;--c1:#0072b2;--c2:#d55e00;--c3:#008262;--c4:#aa4499;--c5:#2f8fc4;--c6:#8a6d00;
--good:#0072b2;--bad:#d55e00}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4af;--ground:#15181c;--panel:#1d2126;
--rule:#3a4149;--c0:#e6e9ed;--c1:#56b4e9;--c2:#f08a3c;--c3:#2bc59b;--c4:#e29ac8;--c5:#9ad0f0;--c6:#f0e442;
--good:#56b4e9;--bad:#f08a3c}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1560px;margin:0 auto;padding:1.2rem clamp(.8rem,2.5vw,2.5rem) 3rem}
h1{font-size:1rem;font-weight:600;color:var(--soft);margin:0 0 .4rem}
h2{font-size:1.15rem;margin:2.4rem 0 .7rem;padding-top:.9rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:0 0 .3rem}
.headline{font-size:clamp(1.25rem,1rem + 1.3vw,1.9rem);line-height:1.25;font-weight:650;margin:0 0 .7rem;
max-width:46em;text-wrap:pretty}
p,.losses li{max-width:75ch}
.remark{color:var(--soft);margin:.2rem 0}
.first{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:1.2rem 2.5rem;
align-items:start;margin-top:1rem}
.first h2{border:0;padding:0;margin:0 0 .5rem}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:2rem 2.2rem}
figure{margin:0;min-width:0;max-width:620px}
figure svg:not(.swatch){display:block;width:100%;height:auto}
figcaption{font-size:.875rem;color:var(--soft);margin-top:.3rem;line-height:1.4}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;padding:0;margin:0 0 .3rem;font-size:.875rem}
.legend li{overflow-wrap:anywhere}
.swatch{width:36px;height:16px;vertical-align:-3px;margin-right:.35em}
svg text{font:13px system-ui,sans-serif;fill:var(--soft)}
svg text.name{fill:var(--ink)}
svg text.row{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:5px}
.grid{stroke:var(--rule);stroke-width:.7}
.axis{stroke:var(--soft);stroke-width:1}
.unity{stroke:var(--ink);stroke-width:1.4;stroke-dasharray:5 4}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.whisker{stroke:currentColor;stroke-width:5;opacity:.45}
.seed{stroke:var(--ink);stroke-width:1}
.mark{fill:currentColor;stroke:currentColor}
.hollow{fill:var(--ground);stroke-width:2}
path.hollow{fill:none}
.dots .mark{opacity:.6;stroke:none}
.dots .hollow{stroke:currentColor;stroke-width:1.2;fill:none}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.c5{color:var(--c5)}.c6{color:var(--c6)}
.bar.faster,.kind.running{fill:var(--good)}
.bar.slower,.kind.leftover{fill:url(#hatch);stroke:var(--bad);stroke-width:1}
.kind.kept{fill:url(#dots);stroke:var(--c3);stroke-width:1}
#hatch path{stroke:var(--bad);stroke-width:2}
#dots circle{fill:var(--c3)}
.setup{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.25rem 1rem;margin:0;font-size:.9rem}
.setup dt{color:var(--soft)}
.setup dd{margin:0;overflow-wrap:anywhere}
code{font:.85em ui-monospace,monospace;background:var(--panel);padding:.1em .3em;border-radius:3px}
.pair{display:flex;flex-wrap:wrap;gap:0 3rem}
.pair>section:first-child{flex:1 1 340px;min-width:0}
.pair>section:last-child{flex:3 1 640px;min-width:0}
@media (max-width:700px){.pair{display:block}}
.losses{list-style:none;padding:0;margin:.3rem 0;font-size:.9rem}
.losses>li{margin-bottom:.7rem}
.losses ul{padding-left:1.1rem;margin:.1rem 0}
.scroll{overflow-x:auto;margin:.3rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .9rem .32rem .3rem;text-align:right;vertical-align:top;white-space:nowrap}
th:first-child{text-align:left;white-space:normal;min-width:8.5rem;font-weight:400;position:sticky;left:0;
background:var(--ground)}
thead th{border-bottom:1px solid var(--soft);font-weight:600;vertical-align:bottom}
tbody tr{border-bottom:1px solid var(--rule)}
tbody tr.key th,tbody tr.key td{font-weight:650}
small{display:block;color:var(--soft);font-size:.78rem;font-weight:400}
.defs{position:absolute;width:0;height:0}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}.plots,.first{grid-template-columns:1fr 1fr}
figure,tr,.losses>li{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible}
th,td{padding:.2rem .5rem .2rem .2rem;font-size:8.5pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""")

PATTERNS = Markup(
    '<svg class="defs" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0V6"/></pattern>'
    '<pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse"><circle cx="2" cy="2" r="1.3"/>'
    '<circle cx="5" cy="5" r="1.3"/></pattern></defs></svg>'
)
"""Fills that are told apart without colour."""
