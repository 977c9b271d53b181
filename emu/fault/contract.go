// Package fault breaks things in a running lab, behind the back of whoever
// controls it: links, routers, hosts, sites, processes. Everything that it did
// can be undone, and is when the experiment ends. What happens when is drawn
// from a seed beforehand: the same seed gives the same faults at the same times.
package fault
