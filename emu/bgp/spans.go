package bgp

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// A site may have thousands of prefixes, and what happens to one happens to all
// of them at once. An event about a route therefore stands for as many as its
// attribute count says: prefix is the first, and the others follow it, of the
// same length. Without count it is one.

// Prefixes are those that an event about routes stands for.
func Prefixes(e event.Event) (topo.Run, error) {
	first, err := netip.ParsePrefix(e.Attr["prefix"])
	if err != nil {
		return topo.Run{}, fmt.Errorf("event %s of %s: %w", e.Kind, e.Node, err)
	}
	count := 1
	if text, more := e.Attr["count"]; more {
		if count, err = strconv.Atoi(text); err != nil || count < 1 || !first.Addr().Is4() {
			return topo.Run{}, fmt.Errorf("event %s of %s: %q prefixes from %s on", e.Kind, e.Node, text, first)
		}
	}
	return topo.Run{First: first, Count: count}, nil
}

// few prefixes are told one by one.
const few = 16

// spans divides items, which are in order, into stretches of prefixes that
// follow each other and are alike otherwise, and gives the first of each and
// its length; few are given one by one.
func spans[T any](items []T, prefix func(T) netip.Prefix, alike func(a, b T) bool) iter.Seq2[T, int] {
	return func(yield func(T, int) bool) {
		for i := 0; i < len(items); {
			n := 1
			for i+n < len(items) && topo.Follows(prefix(items[i+n-1]), prefix(items[i+n])) && alike(items[i+n-1], items[i+n]) {
				n++
			}
			if n <= few {
				n = 1
			}
			if !yield(items[i], n) {
				return
			}
			i += n
		}
	}
}

// counted adds how many prefixes an event is about, where it is not one.
func counted(n int, attr map[string]string) map[string]string {
	if n > 1 {
		attr["count"] = strconv.Itoa(n)
	}
	return attr
}

// run and alike are for spans.
func (e export) run() netip.Prefix { return e.Prefix }

func (e export) alike(o export) bool {
	o.Prefix = e.Prefix
	return e == o
}

// news is a path that came or went.
type news struct {
	at   event.Mono
	lost bool
	path path
}

func (n news) run() netip.Prefix { return n.path.Prefix }

func (n news) alike(o news) bool {
	p, q := n.path, o.path
	return n.lost == o.lost && p.RD == q.RD && p.NextHop == q.NextHop && p.Label == q.Label && p.Pref == q.Pref && slices.Equal(p.RTs, q.RTs)
}

// tell reports what was heard in this round. What was heard of one prefix stays
// in its order.
func (p *process) tell() {
	slices.SortStableFunc(p.heard, func(a, b news) int {
		return cmp.Or(strings.Compare(a.path.RD, b.path.RD), comparePrefixes(a.path.Prefix, b.path.Prefix))
	})
	for n, count := range spans(p.heard, news.run, news.alike) {
		attr := counted(count, map[string]string{"rd": n.path.RD, "prefix": n.path.Prefix.String()})
		if n.lost {
			p.emitAt(n.at, "bgp.lost", attr)
			continue
		}
		attr["label"], attr["next_hop"] = strconv.FormatUint(uint64(n.path.Label), 10), n.path.NextHop.String()
		attr["rts"] = strings.Join(n.path.RTs, " ")
		p.emitAt(n.at, "bgp.received", attr)
	}
	clear(p.heard) // they hold on to memory
	p.heard = p.heard[:0]
}
