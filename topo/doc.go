// Package topo says what a lab IS, and nothing of how it is made real.
//
// Division of labour:
//
//   - scenario.go: the file as the user writes it ([Scenario] and its parts);
//     units.go: its quantities and ordered mappings; format.go: its names and
//     addresses;
//   - schema.go: the JSON Schema, made from the types; reference.go: the
//     user's reference, made from the schema;
//   - parse.go: [Load] and [Parse]; document.go: the YAML tree with its places;
//     faults.go: what the schema finds, in a user's words; check.go and
//     checkvpc.go: what is wrong with the meaning; diagnostic.go: how it is
//     shown;
//   - generate.go: regular labs and defaults written out; render.go: the same
//     as a file;
//   - guest.go: what runs in a VM; infra.go: the network of the hosts it runs on;
//   - expand.go: [Expand] turns a Scenario into a [Plan], piece by piece with
//     build.go, which also changes one that is there;
//   - plan.go: the [Plan]: every node, link, address, MAC, label, RD and RT;
//     select.go: looking things up in it and taking parts of it;
//   - operation.go: the changes of a running lab; do.go: [Plan.Do], the plan
//     after one, and change.go what each does;
//   - number.go: the one visible rule by which numbers are given, so that a
//     packet dump can be read by eye; name.go: the same for names;
//   - path.go: shortest paths, LSPs and the backbone's own routes; reserve.go:
//     what a reservation asks for; settle.go: which there is room for, and
//     their ways; routing.go: who runs the control plane.
//
// The package is pure: it runs on any OS, needs no privilege and imports
// nothing of emu, metrics, plots or scenarios.
package topo
