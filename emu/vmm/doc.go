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
//
// To have a VM stand, QEMU is told to write down its state while the VM runs: it
// prepares all but the last, and stops the VM by itself. Told to stop it first, it had
// it stand ten times as long (40 ms and 4 ms in User Mode Linux, in one run). The
// QEMU that the VM goes on in waits for the state with all else done.
//
// Division of labour:
//
//   - keeper.go: the VM, wherever it is: boots, stands, goes on elsewhere; leash.go:
//     no longer than it may;
//   - qemu.go, command.go: one QEMU; state.go: what one hands to another;
//   - network.go: eth0 and the taps; disk.go and package nbd: the disk;
//   - boot.go, initramfs.go, payload.go and package inside: what a VM boots;
//   - native*.go, modes.go: how QEMU moves a VM by itself, which agents see to.
package vmm
