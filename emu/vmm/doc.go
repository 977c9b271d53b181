// Package vmm keeps real VMs: a Linux kernel of its own in QEMU, behind the
// same guest.Control as a process guest.
//
// A VM has one keeper (the process that package guest's Verb runs, here with a
// Spec of guest.KindQEMU) in the VM's namespace, and a QEMU at each host that it
// runs on or is about to come to:
//
//	VM's namespace                          host's namespace
//	┌───────────────────────────────┐      ┌──────────────────────────────┐
//	│ keeper: control socket, disk  │ QMP  │ QEMU: vCPU, RAM in the       │
//	│ tap0 ⇄ eth0 (redirected by tc)│◀────▶│ host's folder, tap by its    │
//	└───────────────│───────────────┘  fd  │ descriptor                   │
//	                └ veth: the port at the host's bridge, that moves
//
// The RAM is the file of guest.Memory, shared: an agent reads it as it reads a
// process guest's, and QEMU hands over the state of its devices only
// (x-ignore-shared). Where QEMU moves the memory itself, its sockets are the
// host's.
package vmm
