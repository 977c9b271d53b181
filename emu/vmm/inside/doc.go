// Package inside is what runs in a VM of package vmm: process 1 of its kernel,
// and what it and its keeper say to each other.
//
// [Main] is the whole life of the process: it mounts file systems, loads the
// modules that its initial file system has, gives eth0 its address, and is then
// package guest's machine on memory of its own and on /dev/vda. It never returns;
// whatever fails ends the VM, with its reason on the console.
//
// The keeper tells it what to be by a word of the kernel's command line
// ([Orders]) and asks it by a port of a virtio console ([Link]).
package inside
