package lab

import (
	"fmt"
	"reflect"
	"slices"
	"sort"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/topo"
)

// A change of VPNs is done in two halves, so that no route ever points at an
// object that is not there: first the speakers are told what the old and the
// new configuration have in common (what goes is withdrawn while its kernel
// objects still exist), then, when the kernel objects of the new plan are
// there, the whole of the new one.

// common is what old and next both say, in the words of next: circuits and
// policy rules that are in only one of them are left out. Tunnels are next's
// only where old has them too, because a new tunnel needs new links.
func common(old, next bgp.Config) bgp.Config {
	c := old
	c.VRFs = nil
	for _, v := range old.VRFs {
		i := slices.IndexFunc(next.VRFs, func(n bgp.VRF) bool {
			return n.Name == v.Name && n.Table == v.Table && n.RD == v.RD && n.Label == v.Label
		})
		if i < 0 {
			continue
		}
		kept := v
		kept.Circuits = intersect(v.Circuits, next.VRFs[i].Circuits)
		if len(kept.Circuits) > 0 {
			c.VRFs = append(c.VRFs, kept)
		}
	}
	c.VSIs = nil
	for _, v := range old.VSIs {
		if kept, stays := commonVSI(v, next.VSIs); stays {
			c.VSIs = append(c.VSIs, kept)
		}
	}
	c.Policy = nil
	for _, r := range old.Policy {
		i := slices.IndexFunc(next.Policy, func(n bgp.RTRule) bool { return n.Name == r.Name })
		if i < 0 {
			continue
		}
		kept := r
		kept.From, kept.To = intersect(r.From, next.Policy[i].From), intersect(r.To, next.Policy[i].To)
		if len(kept.From) > 0 && len(kept.To) > 0 {
			c.Policy = append(c.Policy, kept)
		}
	}
	return c
}

// commonVSI is what v and its namesake among next both say, in the words of v.
// A VSI that no joined site is left of goes. One whose label block grows with
// the number of PEs, or shrinks, stays: the labels that are in both blocks are
// the same ones.
func commonVSI(v bgp.VSI, next []bgp.VSI) (bgp.VSI, bool) {
	i := slices.IndexFunc(next, func(n bgp.VSI) bool {
		return n.Name == v.Name && n.RD == v.RD && n.VEID == v.VEID && n.BlockOffset == v.BlockOffset &&
			n.LabelBase == v.LabelBase && n.MTU == v.MTU
	})
	if i < 0 {
		return v, false
	}
	v.ExportRTs, v.ImportRTs = intersect(v.ExportRTs, next[i].ExportRTs), intersect(v.ImportRTs, next[i].ImportRTs)
	var flows []bgp.Flow
	for _, f := range v.Flows {
		if slices.ContainsFunc(next[i].Flows, func(n bgp.Flow) bool { return reflect.DeepEqual(f, n) }) {
			flows = append(flows, f)
		}
	}
	v.Flows = flows
	return v, len(v.ExportRTs) > 0 && len(v.ImportRTs) > 0
}

func intersect[T comparable](a, b []T) []T {
	var out []T
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

// withPolicy is a reflector's configuration with the policy it has now: the
// neighbours come first, the admission of sites is a step of its own.
func withPolicy(cfg bgp.Config, policy []bgp.RTRule) bgp.Config {
	cfg.Policy = policy
	return cfg
}

func same(a, b bgp.Config) bool { return reflect.DeepEqual(a, b) }

// speakerChanges describes, for a preview, what happens to the speakers.
func speakerChanges(old, next map[string]bgp.Config) []string {
	var lines []string
	for node, cfg := range next {
		was, runs := old[node]
		switch {
		case !runs:
			lines = append(lines, fmt.Sprintf("+ speaker %s (%s)", node, describeConfig(cfg)))
		case !same(was, cfg):
			lines = append(lines, fmt.Sprintf("~ speaker %s (%s -> %s)", node, describeConfig(was), describeConfig(cfg)))
		}
	}
	for node := range old {
		if _, stays := next[node]; !stays {
			lines = append(lines, "- speaker "+node)
		}
	}
	sort.Slice(lines, func(i, j int) bool { return lines[i][2:] < lines[j][2:] })
	return lines
}

func describeConfig(c bgp.Config) string {
	if c.Reflector {
		return fmt.Sprintf("reflector, %d clients, %d VPCs admitted", len(c.Neighbors), len(c.Policy))
	}
	circuits := 0
	for _, v := range c.VRFs {
		circuits += len(v.Circuits)
	}
	text := fmt.Sprintf("%d VRFs, %d circuits, %d tunnels", len(c.VRFs), circuits, len(c.Tunnels))
	if len(c.VSIs) > 0 {
		text += fmt.Sprintf(", %d VSIs", len(c.VSIs))
	}
	if c.Core != nil {
		text = fmt.Sprintf("%d VRFs, %d circuits, OSPF and LDP on %d links", len(c.VRFs), circuits, len(c.Core.Links))
	}
	if c.Routing == topo.RoutingFRR {
		text = "FRR, " + text
	}
	return text
}
