// Package kernel decides which Linux kernel carries a lab, boots it, and keeps
// a line to the vpclab process inside.
//
// Who does what:
//
//   - substrate.go and probe.go choose: is this machine's own kernel good
//     enough, or is one booted (User Mode Linux, QEMU), or can nothing be done
//     here;
//   - uml.go finds the User Mode Linux program and its modules; qemu.go finds
//     QEMU, a stock kernel image and its modules;
//   - machine.go starts a kernel and stands for it while it lives; booted.go is
//     the life of one that is booted, machine_uml.go and machine_qemu.go what is
//     peculiar to each;
//   - vmlinux.go unpacks a kernel before it is booted, accelerate.go asks whether
//     KVM can boot it, tsc.go measures what its clock runs by;
//   - warden.go is the small process that ends the kernel and clears its files
//     when the launcher dies, however it dies;
//   - init.go is the other side: vpclab as process 1 of the booted kernel
//     (mounts, modules, loopback, control channel, power off); stage.go is what
//     comes before that in a stock kernel;
//   - box.go and box_run.go are the closed box, a machine on virtual time:
//     box_pack.go and initrd.go make what it finds in its memory, box_init.go is
//     its process 1, box_letter.go and port_amd64.s are the way out of it;
//   - exec.go runs one command inside: the launcher for `go test -exec`;
//   - doctor.go says what is missing on this machine and what mends it.
//
// The package knows nothing of labs: what is served inside is given to it as a
// function. emu/lab and cmd/vpclab call it.
package kernel
