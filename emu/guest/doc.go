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
//   - memory.go: [Memory], a file of pages with the bitmap of those written;
//   - disk.go: [Disk], an image with the bitmap of blocks written, and the
//     mirror that a write must reach before it counts;
//   - guest.go: the process, its gate (pause and resume) and its control socket;
//   - workload*.go: what runs in it, calibrated on published measurements;
//   - server.go: what clients see of it.
//
// What moves a guest is package migrate; what a host does with guests is
// package hypervisor.
package guest
