// Package lab is the running lab: one plan made real on one kernel, and the
// daemon that answers for it.
//
// Division of labour:
//
//   - lab.go: [Lab], the object that experiments and the daemon share;
//   - apply.go, stage.go: [Lab.Apply], the one way anything is built, changed
//     or removed, and the order in which it is done;
//   - operate.go: [Lab.Operate], one operation as a change of the plan;
//     announce.go: who was plugged in elsewhere by a change is announced there;
//   - busy.go: who keeps others from changing the lab meanwhile;
//   - routes.go: which VPN routes a plan implies, which ones the kernels have
//     acknowledged, and the wait between the two;
//   - speakers.go: one BGP speaker process a router, started, configured and
//     brought back when it dies;
//   - sessions.go: which BGP sessions are up, as the speakers report;
//   - bus.go: the event bus; timeline.go: what Apply measured;
//   - inspect.go, table.go: the lab as it is in the kernel, for programs and
//     for people;
//   - exec.go, frame.go, capture.go: processes in nodes and frames off links;
//   - api.go, client.go: both ends of the daemon's HTTP API;
//   - home.go, keeper.go, launch.go: labs that outlive the command that
//     deployed them: their folders, the process that keeps each one, and how
//     it is started.
//
// It is not for deciding what a lab contains (package topo) nor for measuring
// one (package scenarios, the main caller of [Lab.Apply]).
package lab
