package lab

import (
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// losses are what the controller has been told of links that do not carry
// packets, by the routers at their ends. It is apart from what operations have
// failed: nobody asked for it, and it may be wrong. It knows neither kernel nor
// clock.
type losses struct {
	words map[hop]*word
}

// hop is a router's end of a link.
type hop struct{ node, dev string }

// word is what a router said last of its end of a link.
type word struct {
	down    bool
	said    event.Mono    // when it found out
	trusted event.Mono    // up: from when on that counts
	calm    time.Duration // how long it has to be up until it counts
}

// How long a link has to be up until paths lead over it again. It is doubled
// each time that the link goes down before it has been up for forgiven (a
// damping as that of RFC 8405, and as mild).
const (
	leastCalm = time.Second
	mostCalm  = 16 * time.Second
	forgiven  = 10 * time.Second
)

func newLosses() losses { return losses{words: map[hop]*word{}} }

// say takes a router's word of its end of a link.
func (l *losses) say(node, dev string, up bool, at event.Mono) {
	w := l.words[hop{node, dev}]
	switch {
	case w == nil && up, w != nil && w.down == !up:
		return // no news
	case w == nil:
		w = &word{calm: leastCalm}
		l.words[hop{node, dev}] = w
	case !up && at.Sub(w.said) < forgiven:
		w.calm = min(2*w.calm, mostCalm)
	case !up:
		w.calm = leastCalm
	}
	w.down, w.said = !up, at
	if up {
		w.trusted = at + event.Mono(w.calm)
	}
}

// silent forgets what a router says that has nobody left to say it: what it
// held for down counts as up, when it has been quiet for long enough.
func (l *losses) silent(node string, at event.Mono) {
	for h, w := range l.words {
		if h.node == node && w.down {
			l.say(h.node, h.dev, true, at)
		}
	}
}

// at are the core links of a plan that are lost: by the word of either end, or
// for a while after both have said that they are up. next is when that changes
// without another word; 0: it does not.
func (l *losses) at(plan *topo.Plan, now event.Mono) (lost []topo.Link, next event.Mono) {
	for _, k := range plan.Links {
		if !k.Core {
			continue
		}
		gone := false
		for _, e := range []topo.Endpoint{k.A, k.B} {
			w := l.words[hop{e.Node, e.Ifname}]
			switch {
			case w == nil:
			case w.down:
				gone = true
			case now < w.trusted:
				gone = true
				if next == 0 || w.trusted < next {
					next = w.trusted
				}
			}
		}
		if gone {
			lost = append(lost, k)
		}
	}
	return lost, next
}

// since is when the first of the words came that are not in an older time.
func (l *losses) since(older event.Mono) (first event.Mono) {
	for _, w := range l.words {
		if w.said > older && (first == 0 || w.said < first) {
			first = w.said
		}
	}
	return first
}

// apart names the PEs and Ps of a plan that lost links part from most others:
// they have failed, or are as good as that. Of parts of the same size the one
// with the router that comes first counts as the others.
func apart(plan *topo.Plan) map[string]bool {
	if !slices.ContainsFunc(plan.Links, func(l topo.Link) bool { return l.Lost }) {
		return map[string]bool{}
	}
	near := map[string][]string{}
	for _, l := range plan.Links {
		if l.Core && !l.Lost && !l.Failed {
			near[l.A.Node], near[l.B.Node] = append(near[l.A.Node], l.B.Node), append(near[l.B.Node], l.A.Node)
		}
	}
	part, size, most := map[string]int{}, []int{0}, 0
	for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
		if part[n.Name] != 0 {
			continue
		}
		number := len(size)
		size = append(size, 0)
		for todo := []string{n.Name}; len(todo) > 0; {
			name := todo[0]
			todo = todo[1:]
			if part[name] == 0 {
				part[name] = number
				size[number]++
				todo = append(todo, near[name]...)
			}
		}
		if size[number] > size[most] {
			most = number
		}
	}
	out := map[string]bool{}
	for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
		if part[n.Name] != most {
			out[n.Name] = true
		}
	}
	return out
}

// linkNames are links as [topo.Plan.Without] takes them.
func linkNames(links []topo.Link) (names []string) {
	for _, l := range links {
		names = append(names, l.Name())
	}
	return names
}

// between are links in a person's words: "p1--p2", in order.
func between(links []topo.Link) (words []string) {
	for _, l := range links {
		words = append(words, l.A.Node+"--"+l.B.Node)
	}
	slices.Sort(words)
	return words
}
