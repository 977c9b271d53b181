package lab

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Text prints the report for people: one table a section that was read.
func (r *Report) Text(w io.Writer) {
	s := r.Status
	fmt.Fprintf(w, "lab %s: %s on %s (Linux %s), %d nodes, %d links, %d speakers, %d VPN routes\n",
		s.Lab, s.State, s.Substrate, s.Kernel, s.Nodes, s.Links, s.Speakers, s.VPNRoutes)
	if s.Error != "" {
		fmt.Fprintln(w, "last error:", s.Error)
	}
	r.nodeTable(w)
	r.linkTable(w)
	r.vpcTable(w)
	r.vrfTable(w)
	r.vsiTable(w)
	r.routeTable(w)
	r.lspTable(w)
	r.reservationTable(w)
	r.machineTable(w)
	r.pairTable(w)
	r.macTable(w)
	r.bgpTable(w)
	r.recoveryTable(w)
	r.ribTable(w)
}

// Table makes a table in the style of all of vpclab's.
func Table(title string, head ...any) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Title.Align = text.AlignLeft
	t.Style().Format.Header = text.FormatDefault
	t.SetTitle(title)
	t.AppendHeader(table.Row(head))
	return t
}

func show(w io.Writer, t table.Writer) {
	if t.Length() > 0 {
		fmt.Fprintf(w, "\n%s\n", t.Render())
	}
}

func (r *Report) nodeTable(w io.Writer) {
	t := Table("Nodes", "node", "kind", "VPC", "site", "addresses", "namespace")
	for _, n := range r.Nodes {
		t.AppendRow(table.Row{n.Name, n.Kind, n.VPC, n.Site, fold(n.Addresses), n.Namespace})
	}
	show(w, t)
}

// fold puts a few words on each line of a cell.
func fold(list []string) string {
	const aLine = 3
	var b strings.Builder
	for i, s := range list {
		if i > 0 && i%aLine == 0 {
			b.WriteByte('\n')
		} else if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	return b.String()
}

func (r *Report) linkTable(w io.Writer) {
	t := Table("Links", "end", "address", "master", "leaves by", "end", "address", "master", "leaves by", "mtu", "state")
	for _, l := range r.Links {
		t.AppendRow(table.Row{
			l.A.Node + ":" + l.A.Ifname, l.A.Addr, l.A.Master, l.AtoB.String(),
			l.B.Node + ":" + l.B.Ifname, l.B.Addr, l.B.Master, l.BtoA.String(), l.MTU, linkState(l)})
	}
	show(w, t)
}

func linkState(l LinkInfo) string {
	switch {
	case l.A.Up && l.B.Up:
		return "up"
	case !l.A.Up && !l.B.Up:
		return "down"
	case l.A.Up:
		return l.B.Node + " down"
	}
	return l.A.Node + " down"
}

func (r *Report) vrfTable(w io.Writer) {
	t := Table("VRFs", "PE", "VRF", "VPC", "table", "RD", "label", "ports", "sites")
	for _, v := range r.VRFs {
		t.AppendRow(table.Row{v.Node, v.VRF, v.VPC, v.Table, v.RD, v.Label, strings.Join(v.Ports, " "), strings.Join(v.Sites, " ")})
	}
	show(w, t)
}

func (r *Report) routeTable(w io.Writer) {
	t := Table("VPN routes in the kernel", "PE", "VRF", "prefix", "push", "via", "device", "by")
	for _, x := range r.Routes {
		prefix := x.Prefix
		if x.Type != "unicast" && x.Type != "" {
			prefix = x.Type + " " + prefix
		}
		t.AppendRow(table.Row{x.Node, x.VRF, prefix, stack(x.Labels), x.Via, x.Dev, x.Proto})
	}
	show(w, t)
}

// stack writes labels as captures and `ip` do, outermost first.
func stack(labels []uint32) string {
	words := make([]string, len(labels))
	for i, l := range labels {
		words[i] = strconv.FormatUint(uint64(l), 10)
	}
	return strings.Join(words, "/")
}

func (r *Report) lspTable(w io.Writer) {
	t := Table("Labels in the kernel", "router", "in", "action", "out", "via", "device", "for")
	for _, x := range r.LSPs {
		t.AppendRow(table.Row{x.Node, x.In, x.Action, stack(x.Out), x.Via, x.Dev, x.For})
	}
	show(w, t)
}

func (r *Report) bgpTable(w io.Writer) {
	t := Table("BGP speakers", "router", "role", "by", "pid", "restarts", "neighbour", "session", "since")
	for _, s := range r.BGP {
		pid := strconv.Itoa(s.PID)
		if !s.Running {
			pid = "given up: " + s.Fault
		}
		for i, x := range s.Sessions {
			state, since := x.State, time.Since(x.Since).Round(time.Second).String()
			if x.Since.IsZero() {
				since = ""
			}
			if x.Reason != "" && x.State != "established" {
				state += " (" + x.Reason + ")"
			}
			if i > 0 {
				t.AppendRow(table.Row{"", "", "", "", "", x.Neighbor, state, since})
				continue
			}
			t.AppendRow(table.Row{s.Node, s.Role, s.By, pid, s.Restarts, x.Neighbor, state, since})
		}
		if len(s.Sessions) == 0 {
			t.AppendRow(table.Row{s.Node, s.Role, s.By, pid, s.Restarts})
		}
	}
	show(w, t)
}

func (r *Report) recoveryTable(w io.Writer) {
	t := Table("Links and neighbours that routers watch", "router", "link", "neighbour", "alive", "session", "sends every", "detects in", "went down", "routes switched")
	for _, x := range r.Recovery {
		name, switched := x.Node, fmt.Sprintf("%d of %d", x.Switched, x.Protect)
		if !x.Running {
			t.AppendRow(table.Row{name, "", "", "", "given up: " + x.Fault})
		}
		row := func(dev, peer, alive string, session ...any) {
			t.AppendRow(append(table.Row{name, dev, peer, alive}, append(session, switched)...))
			name, switched = "", ""
		}
		has := map[string]bool{}
		for _, s := range x.Sessions {
			has[s.Dev] = true
			state := fmt.Sprintf("%s for %v", s.State, s.For.Round(time.Second))
			if s.State != "up" && s.Diag != "" {
				state += " (" + s.Diag + ")"
			}
			row(s.Dev, s.Peer.String(), x.alive(s.Dev), state, s.Interval, s.Detection, s.Downs)
		}
		for _, l := range x.Links {
			if !has[l.Dev] {
				row(l.Dev, l.Peer.String(), x.alive(l.Dev), "", "", "", "")
			}
		}
	}
	show(w, t)
}

// alive says of a link whether its router takes it for one that carries.
func (x RepairInfo) alive(dev string) string {
	for _, l := range x.Links {
		switch {
		case l.Dev != dev:
		case l.Alive:
			return "yes"
		case !l.Carrier:
			return "no carrier"
		default:
			return "no"
		}
	}
	return ""
}

func (r *Report) ribTable(w io.Writer) {
	t := Table("BGP RIB", "router", "RD", "prefix or VE", "labels", "next hop", "route targets", "from", "best")
	for _, x := range r.RIB {
		from, best := "itself", ""
		if x.From.IsValid() {
			from = x.From.String()
		}
		if x.Best {
			best = "yes"
		}
		what, label := x.Prefix.String(), fmt.Sprint(x.Label)
		if v := x.VPLS; v != nil {
			what, label = fmt.Sprintf("VE %d", v.VEID), fmt.Sprintf("%d-%d", v.LabelBase, int(v.LabelBase)+v.BlockSize-1)
		}
		t.AppendRow(table.Row{x.Node, x.RD, what, label, x.NextHop, strings.Join(x.RTs, " "), from, best})
	}
	show(w, t)
}
