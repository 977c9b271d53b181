// Package plug holds what a VM sends until the hypervisor lets it go: output
// commit for replication. It is made of the kernel's own pieces: a prio qdisc on
// the VM's interface has a band an epoch, each with a sch_plug that is shut; what
// the VM sends goes into the band of the epoch that is open, and a band is
// unplugged when its epoch is safe.
package plug

// Bands is how many epochs can be held apart: those of sch_prio.
const Bands = 16
