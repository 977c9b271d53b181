// Package guest is a VM that vpclab makes itself: the process guest.
//
// A process guest is a workload process that owns real bytes: a memory of
// 4 KiB pages and a disk image. Its network namespace stands for the guest's
// kernel: its TCP connections live there and go with it. The process stands
// for the virtual CPUs: it can be stopped between two steps of its work and go
// on with another memory and another disk, those that were received at the
// host that it moves to. Bytes that were lost or mangled on the way are then
// bytes that the workload reads.
//
// Memory and disk are files of the host that the VM runs on, in a folder that
// stands for that host. They outlive every process: a hypervisor's agent that
// is killed finds them again, and a guest that is killed is started again from
// its disk.
//
// Division of labour:
//
//   - memory.go, bitmap.go: [Memory], a file of pages with bitmaps of those
//     written; absence.go, faults.go, uffd.go: pages that are not there yet, as
//     the guest and as the agent sees them;
//   - disk.go: [Disk], an image with the bitmap of blocks written; mirror.go: the
//     mirror that a write must reach before it counts;
//   - guest.go: the process; machine.go: what a hypervisor does to it; gate.go:
//     pause; state.go: what the virtual CPUs hold; control.go, serve.go, remote.go:
//     the control socket, its two ends;
//   - profile.go, plan.go, content.go, workload.go, trace.go, diskfill.go: what
//     runs in it and what its memory and disk hold, calibrated on published
//     measurements (docs/guests.md); replay.go: the same without a process;
//   - inside.go, direct.go: the same work as process 1 of a VM with a kernel of its
//     own (package vmm), on a block device;
//   - clients.go, connection.go, app.go, ledger.go, sealed.go: what clients see of
//     it; client.go: their half; carry.go: their connections in checkpoints;
//     standby.go: the process that goes on from one.
//
// What moves a guest is package migrate; what a host does with guests is
// package hypervisor.
package guest
