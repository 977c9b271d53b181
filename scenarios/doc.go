// Package scenarios is what is done to a lab: the experiments, and the library
// of scenario files embedded in the binary.
//
// Division of labour:
//
//   - library.go: the embedded files; List and Load, with the full check of a
//     file (topo's, then experiment kinds, parameters and expectations);
//   - run.go: trials in a seeded random order, warm-up, resume, failures
//     recorded, verdict;
//   - setup.go: the experiment vpc-setup; firewall.go: its baseline;
//   - audit.go: the experiment audit;
//   - lan.go: the experiment lan; lanframes.go, lanpath.go, lanmove.go: its
//     parts; plain.go: the plain IP ways that it compares with;
//   - touch.go: what a change touches, counted by reading the kernel before
//     and after;
//   - handler.go: the same over HTTP, for the lab daemon.
//
// Measured values go to package metrics and nowhere else; figures are drawn
// from the stored files by package plots.
package scenarios
