// Package frr gives a PE or P the daemons of FRR (https://frrouting.org) as its
// control plane, as a reference that no one here wrote.
//
// A router that has them is told what to do as a GoBGP speaker is, by a
// bgp.Config over a bgp control channel, through a handle of the same type,
// and reports the same events. What differs is behind: a process `vpclab frr`
// in the router's namespace, which starts the daemons and speaks to each over
// the socket that vtysh uses. It is process 1 of a PID namespace, so that none
// outlives it, and has a mount namespace, so that it needs no user of FRR's on
// the machine and leaves none of its files.
//
// Division of labour. In the parent:
//
//   - install.go: finds FRR, and says what to do where there is none;
//   - start.go: [Start].
//
// In the router's process:
//
//   - router.go: [RunRouter]: daemons started, told, brought back, ended;
//   - daemon.go: one daemon; vty.go: a session with it; mounts.go: its world;
//   - render.go: what each daemon is told, from the Config; block.go: the
//     commands that lead from one configuration to another (both pure);
//   - watch.go: what the kernel holds, told as events;
//   - paths.go: what bgpd answers.
//
// # Two modes
//
// Where every PE and P runs FRR, labels are FRR's: OSPF and LDP on the core
// links, bgpd at the PEs (Config.Core is set). In a mixed backbone they are the
// controller's: an FRR PE has them as static routes to the other PEs, over
// which bgpd resolves its next hops. A P then has no FRR, whatever the file
// says. VPN routes go by way of our route reflector in both. VRFs, circuits,
// addresses and the routes to the sites are the fabric's; the VPN labels, which
// the plan has numbered, and all routes of protocols ospf, ldp, bgp and static
// are FRR's.
//
// # Events
//
// As package bgp has them: bgp.established, bgp.down, route.programmed,
// route.removed, bgp.log and speaker.exit. A speaker.exit with the attribute
// daemon is the death of that daemon alone, and speaker.restarted with it says
// that it is back. FRR does not say when it announces, withdraws or receives a
// route, so bgp.announced, withdrawn, received and lost are missing.
package frr
