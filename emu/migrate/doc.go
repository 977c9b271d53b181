// Package migrate moves a running VM's memory and disk from one host to
// another over TCP, and hands the VM over at a moment of its choosing.
//
// It knows pages, blocks and connections; nothing of namespaces, VPNs or
// processes. What it needs of a VM is [Source] and [Target]; who owns the VM is
// decided by [Arbiter]. So it runs in a test over a pipe as it runs between
// two hypervisors over MPLS.
//
// Division of labour:
//
//   - package wire: frames, and a session of numbered messages that outlives
//     its TCP connection;
//   - package codec: pages to bytes and back: zero ranges, content redundancy
//     elimination, deltas, compression, each accounted for;
//   - policy.go: the algorithms taken apart, and the published stop rules;
//     rounds.go: pages sent by rounds; own.go: our own schedule;
//   - flow.go: batches on the link, no more than fill it; spare.go: whether
//     there is time to compress them; line.go: what the ends say to each other,
//     in the words of messages.go;
//   - source.go, target.go: the two ends; postcopy.go: pages that follow the
//     VM; recover.go: what becomes of a VM whose end died; steps.go: the
//     moments at which one may;
//   - verify.go, late.go: fingerprints and the proof, and when there is time
//     for it;
//   - disk*.go: the disk, asynchronously and then with each write mirrored;
//   - report.go: what was measured.
//
// An end that fails leaves the VM in one of three states, and its error says in
// which: it runs at the source; it is the target's ([ErrCommitted]); or nobody
// knows until the Arbiter answers ([ErrInDoubt]).
package migrate
