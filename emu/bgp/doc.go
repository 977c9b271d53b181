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
//   - paths.go: VPNv4 paths to and from GoBGP's API;
//   - policy.go: the reflector's route-target policy;
//   - imports.go: which received path goes into which VRF (pure);
//   - fib.go: routes to the kernel and back.
//
// BGP carries VPNv4 routes only (RFC 4364): one iBGP session from each PE's
// loopback to the reflector's (RFC 4456). A site's route leaves its PE with
// the site's export route target; the reflector replaces it by the targets
// that the VPC's members import, so that who belongs to a VPC is decided at
// one place.
//
// # Events
//
// A speaker reports what happens with the clock of the moment:
//
//	bgp.established   neighbor
//	bgp.down          neighbor, reason
//	bgp.announced     vrf, site, rd, prefix, label, rt   (sent to an established session)
//	bgp.withdrawn     vrf, site, rd, prefix
//	bgp.received      rd, prefix, label, next_hop, rts   (became best path here)
//	bgp.lost          rd, prefix                         (no path any more)
//	route.programmed  vrf, table, prefix, egress, labels (the kernel acknowledged)
//	route.removed     vrf, table, prefix
//	route.failed      vrf, table, prefix, error
//	policy.applied    rules                              (reflector: policy in force, routes re-evaluated)
//	bgp.log           level, text                        (errors that GoBGP logs)
//	speaker.exit      status, stderr                     (from the parent)
package bgp
