// Package plug holds what a VM sends until the hypervisor lets it go: output
// commit for replication. It is made of the kernel's own pieces, in the VM's
// namespace: what leaves by the VM's interface is redirected to an interface of
// kind ifb, where a prio discipline has a band an epoch, each with a plug that is
// shut; what the VM sends goes into the band of the epoch that is open, and a
// band is unplugged when its epoch is safe. Its packets then go on where they
// were taken from.
//
// Division of labour: ring.go knows epochs and bands, and no kernel; plug.go
// tells the kernel.
//
// Why the detour: a packet that waits in a queue of the VM's own interface still
// counts as the socket's, and TCP hands over no more than a few of those at a
// time (TCP small queues): an answer of 40 kB would take seven epochs. A
// redirect of what leaves goes by a copy that has no owner, as if a network
// card had taken it, which is what a hypervisor's end of a network card does.
// And an interface that goes down loses what waits in its queues, while that of
// the detour stays up.
//
// What is held is the kernel's: an agent that is killed leaves the gate as it
// is, and what is held stays held, until a successor adopts or removes it.
package plug

// Bands is how many sch_prio has. One is for what may leave at once; see Epochs.
const Bands = 16

// Epochs is how many of them can be held apart, the open one included.
const Epochs = Bands - 1
