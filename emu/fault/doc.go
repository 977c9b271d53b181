// Package fault breaks things in a running lab, behind the back of whoever
// controls it: links, routers, hosts, sites, processes. Everything that it did
// can be undone, and is when the experiment ends. What happens when is drawn
// from a seed beforehand: the same seed gives the same faults at the same times.
//
// Division of labour: topo.Fault says what breaks and which links and nodes of a
// plan that are; [Schedule] (schedule.go) expands what happens again and again
// and at random to a list; [Wound] (wound.go) says it in the fabric's terms,
// which keeps what is broken apart from what the lab should be; process.go ends
// processes, and connections with them, as a power cut or a signal does. Who is
// started again, and when, is the business of package lab, which also keeps the
// list of faults.
package fault
