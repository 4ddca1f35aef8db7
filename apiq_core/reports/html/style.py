"""The style of `report.html`: light, dark, phone and paper."""

STYLE = """
:root { --page: #fff; --ink: #1c2127; --soft: #5c6670; --line: #d9dee4; --panel: #f5f7f9;
  --a: #1664c0; --b: #d9822b; --c: #8a97a5; --bad: #c22f2f; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14181c; --ink: #e4e8ec; --soft: #98a3ae; --line: #323a42; --panel: #1c2227;
    --a: #63a8f2; --b: #eba55a; --c: #6f7c89; --bad: #f47171; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 50rem; padding: 1.5rem 1rem 3rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .4rem; font-size: 1.15rem; }
p { margin: .4rem 0; }
.note, figcaption { color: var(--soft); font-size: .86rem; }
.note { max-width: 44rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: .7rem; margin: 1.2rem 0; padding: 0; }
.tiles div { padding: .7rem .9rem; border-radius: .5rem; background: var(--panel); }
.tiles dt { color: var(--soft); font-size: .86rem; }
.tiles dd { margin: 0; }
.tiles .figure { font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.warnings { margin: 1rem 0; padding: .6rem 1rem; border-left: 4px solid var(--bad);
  background: var(--panel); }
.warnings ul { margin: 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
.plot { display: block; width: 100%; min-width: 40rem; }
table { width: 100%; border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: baseline; }
th { color: var(--soft); font-weight: 500; }
thead th { vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { color: var(--ink); font-weight: 400; }
.ours th, .ours td { font-weight: 600; }
.barred { width: 26%; }
.facts { columns: 2; column-gap: 2.5rem; margin: .5rem 0; font-size: .88rem; }
.facts div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid;
  padding: .18rem 0; border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .2rem 0 .9rem; padding: 0;
  list-style: none; font-size: .88rem; }
.legend svg { width: .8em; height: .8em; margin-right: .4em; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr));
  gap: .6rem .9rem; margin: .8rem 0; }
.multiples figure { margin: 0; break-inside: avoid; }
.multiples svg { display: block; width: 100%; max-width: 12rem; }
.multiples figcaption { font-size: .78rem; }
.bar { display: block; width: 100%; height: 1.1rem; }
td .bar { display: inline-block; height: .7rem; }
.ramp { vertical-align: -1px; }
svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.end { text-anchor: end; }
.mid { text-anchor: middle; }
.a, .heat { fill: var(--a); }
.b { fill: var(--b); }
.c { fill: var(--c); }
.bad { fill: var(--bad); }
.grid { stroke: var(--line); }
.a-line, .b-line, .bad-line { fill: none; stroke: var(--a); stroke-width: 1.5; }
.b-line { stroke: var(--b); }
.bad-line { stroke: var(--bad); stroke-width: 2; }
.kept { fill: none; stroke: var(--ink); stroke-width: 1.5; }
@media (max-width: 36rem) {
  body { padding: 1rem .8rem 2rem; }
  .facts { columns: 1; }
  th, td { padding: .35rem .35rem; }
  .barred { width: 18%; }
  .tiles { grid-template-columns: 1fr 1fr; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { margin-top: 1.4rem; }
  h2, .note, .legend { break-after: avoid; }
  table, .wide, .tiles, .bar { break-inside: avoid; }
  .plot { min-width: 0; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tiles div, .warnings { border: 1px solid var(--line); }
}
"""
