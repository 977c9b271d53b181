// Package topo says what a lab IS, and nothing of how it is made real.
//
// Division of labour:
//
//   - scenario.go: the file as the user writes it ([Scenario] and its parts);
//   - parse.go, schema.go, diagnostic.go: strict reading with file:line:col;
//   - expand.go: [Expand] turns a Scenario into a [Plan];
//   - plan.go: the [Plan]: every node, link, address, MAC, label, RD and RT;
//   - number.go: the one visible rule by which numbers are given, so that a
//     packet dump can be read by eye;
//   - path.go: shortest paths.
//
// The package is pure: it runs on any OS, needs no privilege and imports
// nothing of emu, metrics, plots or scenarios.
package topo
