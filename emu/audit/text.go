package audit

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Text prints the report for people.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "lab %s: %s in %s at %s, asked from the outside\n\n", r.Lab, count(r.Machines, "machine"), count(r.VPCs, "VPC"), count(r.Sites, "site"))
	r.IP.text(w, "by IP")
	r.Frames.text(w, "frames")
	fmt.Fprintln(w, "  A reached  a should reach and does not  f kept apart  L leak  = same address, cannot be asked  . itself")
	r.attackText(w)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	r.leakText(w)
	pairText(w, "UNREACHED", r.Unreached)
	pairText(w, "DOUBLED", r.Doubled)
	s := r.Seconds
	fmt.Fprintf(w, "\n%s: %d ordered pairs, %d attacks; %.2f s (sockets %.2f, IP %.2f, frames %.2f, attacks %.2f, IP again %.2f, traces %.2f): %.0f pairs/s\n",
		r.verdict(), r.Pairs(), r.Tried(), s.All, s.Sockets, s.IP, s.Frames, s.Attacks, s.Again, s.Traces, r.PairsPerSecond())
}

// count is a number of things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// verdict is the outcome in few words; what leaks and what does not reach are
// told apart.
func (r *Report) verdict() string {
	if r.Clean() {
		return "isolated"
	}
	var words []string
	if n := len(r.Leaks); n > 0 {
		words = append(words, count(n, "leak"))
	}
	if n := len(r.Unreached); n > 0 {
		words = append(words, count(n, "allowed pair")+" unreached")
	}
	if n := len(r.Doubled); n > 0 {
		words = append(words, count(n, "pair")+" with frames doubled")
	}
	return "NOT AS IT SHOULD BE: " + strings.Join(words, ", ")
}

// maxRows is how many machines a matrix shows by themselves.
const maxRows = 60

// text prints a matrix: a row a machine, a letter a machine, a gap between
// VPCs. A large one has a row and a letter a VPC, its worst.
func (m *Matrix) text(w io.Writer, title string) {
	names, cells := m.compact()
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	fmt.Fprintf(w, "%s: %d of %s reached, %s in %d forbidden ones, %d probes\n", title, m.Reached, count(m.Allowed, "allowed pair"), count(m.Leaks, "leak"), m.Forbidden, m.Sent)
	for i, row := range cells {
		fmt.Fprintf(w, "  %-*s  %s\n", width, names[i], row)
	}
}

func (m *Matrix) compact() (names, rows []string) {
	vpcs, of := m.vpcs()
	if len(m.Endpoints) <= maxRows {
		order := make([]int, 0, len(m.Endpoints))
		for v := range vpcs {
			order = append(order, of[v]...)
		}
		for _, i := range order {
			var b strings.Builder
			for k, j := range order {
				if k > 0 && m.Endpoints[j].VPC != m.Endpoints[order[k-1]].VPC {
					b.WriteByte(' ')
				}
				b.WriteByte(m.Cells[i][j])
			}
			names, rows = append(names, m.Endpoints[i].Name), append(rows, b.String())
		}
		return names, rows
	}
	for from := range vpcs {
		row := make([]byte, len(vpcs))
		for to := range vpcs {
			row[to] = m.worst(of[from], of[to])
		}
		names, rows = append(names, vpcs[from]), append(rows, string(row))
	}
	return names, rows
}

// vpcs are the VPCs in order of their first machine, and the machines of each.
func (m *Matrix) vpcs() (names []string, of [][]int) {
	for i, e := range m.Endpoints {
		v := slices.Index(names, e.VPC)
		if v < 0 {
			v = len(names)
			names, of = append(names, e.VPC), append(of, nil)
		}
		of[v] = append(of[v], i)
	}
	return names, of
}

// worst is the worst cell of a block.
func (m *Matrix) worst(from, to []int) byte {
	const order = ".=fAaL"
	worst := byte('.')
	for _, i := range from {
		for _, j := range to {
			if c := m.Cells[i][j]; strings.IndexByte(order, c) > strings.IndexByte(order, worst) {
				worst = c
			}
		}
	}
	return worst
}

// kindText is a kind of attack in words.
var kindText = map[Kind]string{
	KindIP:         "honest packet",
	KindFrame:      "honest frame",
	KindSpoofedIP:  "spoofed source address",
	KindProvider:   "packet to the provider",
	KindSpoofedMAC: "spoofed MAC address",
	KindLabel:      "foreign label",
	KindLabelStack: "foreign label stack",
}

func (r *Report) attackText(w io.Writer) {
	fmt.Fprintf(w, "\n%-24s %8s %8s %8s %12s %8s\n", "hostile customers", "from", "tried", "at PE", "in own VPC", "leaked")
	for _, a := range r.Attacks {
		fmt.Fprintf(w, "%-24s %8d %8d %8d %12d %8d\n", kindText[a.Kind], a.Sources, a.Tried, a.Entered, a.Stayed, a.Leaked)
	}
}

// leakGroup are leaks of a kind between two VPCs by one hop.
type leakGroup struct {
	kind             Kind
	vpc, toVPC, node string
}

// leakText prints the leaks by kind, VPCs and hop, with one example each.
func (r *Report) leakText(w io.Writer) {
	var order []leakGroup
	of := map[leakGroup][]*Leak{}
	for i := range r.Leaks {
		l := &r.Leaks[i]
		g := leakGroup{l.Kind, l.VPC, l.ToVPC, l.Crossed.Node}
		if of[g] == nil {
			order = append(order, g)
		}
		of[g] = append(of[g], l)
	}
	for _, g := range order {
		l, to := of[g][0], g.toVPC
		if to == "" {
			to = "the provider"
		}
		fmt.Fprintf(w, "\nLEAK from %s to %s: %d by %s\n", g.vpc, to, len(of[g]), kindText[g.kind])
		fmt.Fprintf(w, "  as %s sent %s,\n  seen at %s", l.From, l.What, l.To)
		if l.Seen != "" {
			fmt.Fprintf(w, ": %s", l.Seen)
		}
		fmt.Fprintf(w, "\n  %s\n", l.Crossed)
	}
}

// String says where it crossed.
func (c Crossing) String() string {
	var parts []string
	if c.Entered != "" {
		parts = append(parts, "entered "+c.Entered)
	}
	if c.Left != "" {
		parts = append(parts, "left "+c.Left)
	}
	if c.Node == "" {
		return "hop not known: " + c.Why
	}
	return strings.Join(parts, ", ") + ": crossed at " + c.Node
}

// pairText prints pairs, the first few in full.
func pairText(w io.Writer, title string, pairs []Pair) {
	const show = 10
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s: %s\n", title, count(len(pairs), "ordered pair"))
	for i, p := range pairs {
		if i == show {
			fmt.Fprintf(w, "  … and %d more\n", len(pairs)-show)
			break
		}
		by := "by IP"
		if p.By == "frame" {
			by = "frames"
		}
		fmt.Fprintf(w, "  %s %s\n", by, p.Seen)
	}
}
