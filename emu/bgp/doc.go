// Package bgp gives each PE and the route reflector a BGP speaker: GoBGP, in
// a process of its own inside the router's network namespace, as on a real
// router. Killing the process is a failure the lab can study; killing its
// parent ends it, because the parent holds the other end of its control
// channel.
//
// Division of labour. In the parent:
//
//   - config.go, configs.go: what a speaker is told, made from a plan;
//   - speaker.go: [Speaker], the handle of one process: start, configure,
//     wait, read its RIB, end.
//
// Between them:
//
//   - control.go: JSON lines on file descriptor 3.
//
// In the speaker process:
//
//   - process.go: [RunSpeaker], one loop that owns all state;
//   - daemon.go: the GoBGP server and its sessions; attach.go: how a session
//     is opened at once instead of after GoBGP's connect timer;
//   - paths.go: VPNv4 and VPLS paths to and from GoBGP's API;
//   - policy.go: the reflector's route-target policy;
//   - imports.go: which received path goes into which VRF (pure); way.go: by
//     which labels and link;
//   - reach.go: which links and PEs are down, as found out without BGP (pure);
//     listen.go: from whom;
//   - nexthops.go: next hops that routes share, each with a spare (pure);
//   - process_vpn.go: the part of the loop that converges routes; inbox.go: what
//     overtakes it;
//   - fib.go: routes and next hops to the kernel and back;
//   - spans.go: events about thousands of prefixes;
//   - vpls.go: label blocks and Layer2 Info (pure);
//   - pseudowires.go: which received path becomes which pseudowire, what is
//     reserved on it, and what leads from one state to the next (pure);
//   - process_vpls.go: the part of the loop that converges them;
//   - homing.go: who forwards for a site at two PEs (pure); process_homing.go:
//     the part of the loop that sets its port;
//   - wires.go: pseudowires to the kernel and back.
//
// One iBGP session from each PE's loopback to the reflector's (RFC 4456)
// carries VPNv4 routes (RFC 4364) and VPLS label blocks (RFC 4761), or the one
// of them that the neighbor speaks. What a site has to say leaves its PE with
// the site's export route target; the reflector puts the targets there that
// the VPC's members import, so that who belongs to a VPC is decided at one
// place.
//
// # Events
//
// A speaker reports what happens with the clock of the moment. An event about a
// prefix that has a count is about as many, which follow each other ([Prefixes]).
//
//	bgp.established   neighbor
//	bgp.down          neighbor, reason
//	bgp.announced     vrf, site, rd, prefix, label, rt   (sent to an established session)
//	                  vsi, rd, ve, block, mtu, rt
//	bgp.withdrawn     vrf, site, rd, prefix
//	                  vsi, rd, ve
//	bgp.received      rd, prefix, label, next_hop, rts   (became best path here)
//	                  rd, ve, block, mtu, next_hop, rts
//	bgp.lost          rd, prefix                         (no path any more)
//	                  rd, ve
//	route.programmed  vrf, table, prefix, egress, labels (the kernel acknowledged)
//	route.removed     vrf, table, prefix
//	route.failed      vrf, table, prefix, error
//	pic.switched      peer, objects, prefixes, took      (shared next hops moved; peer: who or which link is down or up
//	                                                     again, or "tunnels"; took: since that was found out)
//	pw.up             vsi, egress, ve, out, in, dev      (frames can pass, or pass another way: out are the labels)
//	pw.down           vsi, egress, ve, dev
//	pw.failed         vsi, egress, ve, error             (asked for and refused, here or by the kernel; once)
//	flow.up           vsi, flow, dev, out, in            (reserved traffic of a pseudowire)
//	flow.down         vsi, flow, dev
//	flow.failed       vsi, flow, dev, error
//	port.opened       vsi, site, dev                     (this PE forwards for a site at two PEs)
//	port.closed       vsi, site, dev
//	port.failed       vsi, site, dev, error
//	mac.flushed       dev, egress                        (addresses learned by a pseudowire, whose PE forwards no longer)
//	policy.applied    rules                              (reflector: policy in force, routes re-evaluated)
//	bgp.log           level, text                        (errors that GoBGP logs)
//	speaker.exit      status, stderr                     (from the parent)
package bgp
