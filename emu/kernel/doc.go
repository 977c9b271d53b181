// Package kernel decides which Linux kernel carries a lab, boots it, and keeps
// a line to the vpclab process inside.
//
// Who does what:
//
//   - substrate.go and probe.go choose: is this machine's own kernel good
//     enough, or is one booted (User Mode Linux), or can nothing be done here;
//   - uml.go finds the User Mode Linux program and its modules;
//   - machine.go starts a kernel and stands for it while it lives;
//   - warden.go is the small process that ends the kernel and clears its files
//     when the launcher dies, however it dies;
//   - init.go is the other side: vpclab as process 1 of the booted kernel
//     (mounts, modules, loopback, control channel, power off);
//   - exec.go runs one command inside: the launcher for `go test -exec`;
//   - doctor.go says what is missing on this machine and what mends it.
//
// The package knows nothing of labs: what is served inside is given to it as a
// function. emu/lab and cmd/vpclab call it.
package kernel
