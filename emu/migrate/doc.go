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
//   - policy.go: when to send which pages and when to stop (the algorithms);
//   - source.go, target.go: the two ends; postcopy.go: pages that are asked for;
//   - disk.go: the disk, asynchronously and then with each write mirrored;
//   - report.go: what was measured.
package migrate
