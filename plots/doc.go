// Package plots draws figures and the report of a run, from its stored
// results only: a figure can be drawn again at any time, anywhere, without
// running anything.
//
// Division of labour:
//
//   - figure.go: the list of figures, [Draw], files and captions;
//   - data.go: which stored numbers a figure is about;
//   - style.go: every size, font, colour, marker and hatch;
//   - page.go: title, subtitle, legend and axes around the data;
//   - marks.go: lines with whiskers, hatched bars, guides;
//   - breakdown.go, scaling.go, rules.go, touched.go, reachability.go,
//     join.go, reservation.go, lan.go, operations.go: one figure or family each;
//   - flows.go: goodput over time, and areas and shades in a plot;
//   - migration.go: algorithms, workloads, and which samples of migrations may
//     be compared; paper.go: what CloudNet's authors published, as data;
//   - panels.go, bartable.go: many small plots, and rows of bars in columns;
//   - versus.go, timeline.go, bandwidth.go, cuts.go, rounds.go, postcopy.go,
//     group.go, disk.go, encoders.go, redundancy.go, deltas.go, hashes.go: the
//     figures of migrations;
//   - shifts.go: what a comparison of two versions found;
//   - report.go, report.html.tmpl: report.html, one file that opens anywhere.
//
// Figures are made for print: 3.5 or 7 inches wide, no text under 8 points,
// colours that colour-blind readers tell apart (Okabe and Ito), and beside
// each colour a marker, dash or hatch that survives a grey copy. A figure
// never shows a number without its n and its spread.
package plots
