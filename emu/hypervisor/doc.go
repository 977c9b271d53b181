// Package hypervisor is what a hypervisor host does with VMs: an agent process
// in the host's namespace that starts guests, keeps their memory and disk in
// the host's folder, and is one end of each migration from or to the host.
//
// The lab tells an agent what to do over a control channel, as it does its BGP
// speakers; the agents of two hosts talk to each other over the WAN alone.
package hypervisor
