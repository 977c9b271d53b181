package frr

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChanges(t *testing.T) {
	network := func(p, m string) line { return line{text: "network " + p + " route-map " + m, key: "network " + p} }
	one := []block{
		{head: "route-map a permit 10", lines: []line{set("set src", "10.0.0.1")}},
		{head: "router bgp 1", lines: say("no bgp default x"), blocks: []block{{head: "address-family v", lines: []line{network("10.1.0.0/16", "a")}}}},
		{head: "interface p1", lasting: true, lines: []line{set("ip ospf cost", "10")}},
		{lines: say("ip route a", "ip route b")},
	}
	for _, c := range []struct {
		name       string
		have, want []block
		commands   []string
	}{
		{"the same", one, one, nil},
		{"from nothing", nil, one, []string{
			"route-map a permit 10", "set src 10.0.0.1", "exit",
			"router bgp 1", "no bgp default x", "address-family v", "network 10.1.0.0/16 route-map a", "exit", "exit",
			"interface p1", "ip ospf cost 10", "exit",
			"ip route a", "ip route b",
		}},
		{"to nothing, backwards", one, nil, []string{
			"no ip route b", "no ip route a",
			"interface p1", "no ip ospf cost", "exit",
			"no router bgp 1",
			"no route-map a permit 10",
		}},
		{"a value", []block{{lines: []line{set("k", "1")}}}, []block{{lines: []line{set("k", "2")}}}, []string{"k 2"}},
		{"an empty block", nil, []block{{head: "mpls ldp", blocks: []block{{head: "interface p1"}}}}, []string{"mpls ldp", "interface p1", "exit", "exit"}},
		{"one of two, deep down, before what it needs goes",
			[]block{{head: "route-map a"}, {head: "route-map b"}, {head: "router", blocks: []block{{head: "family", lines: []line{network("1", "a"), network("2", "b")}}}}},
			[]block{{head: "route-map a"}, {head: "router", blocks: []block{{head: "family", lines: []line{network("1", "a")}}}}},
			[]string{"router", "family", "no network 2", "exit", "exit", "no route-map b"}},
		{"a negative line", []block{{lines: say("no x")}}, nil, []string{"x"}},
	} {
		if diff := cmp.Diff(c.commands, changes(c.have, c.want)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// machine understands commands as FRR does, as far as our blocks use them.
type machine struct {
	at   [][]string          // paths of open blocks
	said map[string][]string // lines by path
}

func (m *machine) do(t *testing.T, command string, heads map[string]bool, keys map[string]string) {
	t.Helper()
	path := []string{}
	if len(m.at) > 0 {
		path = m.at[len(m.at)-1]
	}
	where := strings.Join(path, "/")
	word, negative := strings.CutPrefix(command, "no ")
	switch {
	case command == "exit":
		if len(m.at) == 0 {
			t.Fatal("exit at the top")
		}
		m.at = m.at[:len(m.at)-1]
	case negative && heads[word]:
		gone := strings.TrimPrefix(where+"/"+word, "/")
		if _, there := m.said[gone]; !there {
			t.Fatalf("%q: there is none in %q", command, where)
		}
		for p := range m.said {
			if p == gone || strings.HasPrefix(p, gone+"/") {
				delete(m.said, p)
			}
		}
	case negative:
		i := slices.IndexFunc(m.said[where], func(l string) bool { return l == word || keys[l] == word })
		if i < 0 {
			t.Fatalf("%q: nothing to take back in %q", command, where)
		}
		m.said[where] = slices.Delete(m.said[where], i, i+1)
	case heads[command]:
		m.at = append(m.at, append(slices.Clone(path), command))
		p := strings.Join(m.at[len(m.at)-1], "/")
		m.said[p] = append([]string{}, m.said[p]...)
	default:
		if k := keys[command]; k != "" {
			m.said[where] = slices.DeleteFunc(m.said[where], func(l string) bool { return keys[l] == k })
		}
		m.said[where] = append(m.said[where], command)
	}
}

// flat is what a machine would hold that was told blocks.
func flat(blocks []block, path string, out map[string][]string, heads map[string]bool, keys map[string]string) {
	for _, b := range blocks {
		p := path
		if b.head != "" {
			heads[b.head] = true
			p = strings.TrimPrefix(path+"/"+b.head, "/")
			out[p] = append([]string{}, out[p]...)
		}
		for _, l := range b.lines {
			out[p] = append(out[p], l.text)
			keys[l.text] = l.key
		}
		flat(b.blocks, p, out, heads, keys)
	}
}

// TestChangesLeadThere goes at random from one configuration to the next, with
// a stand-in for FRR that refuses to take back what is not there.
func TestChangesLeadThere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() []block {
		var maps, vrfs []block
		for v := range 3 {
			if rng.IntN(3) == 0 {
				continue
			}
			family := block{head: "family"}
			for s := range 3 {
				if rng.IntN(2) == 0 {
					continue
				}
				name := fmt.Sprintf("m-%d-%d", v, s)
				maps = append(maps, block{head: "route-map " + name, lines: []line{set("rt", fmt.Sprint(rng.IntN(3)))}})
				family.lines = append(family.lines, line{text: fmt.Sprintf("network %d route-map %s", s, name), key: fmt.Sprintf("network %d", s)})
			}
			family.lines = append(family.lines, set("rt import", fmt.Sprint(rng.IntN(4))), line{text: "export"})
			vrfs = append(vrfs, block{head: fmt.Sprintf("router %d", v), blocks: []block{family}})
		}
		return append(maps, vrfs...)
	}
	m := &machine{said: map[string][]string{}}
	heads, keys := map[string]bool{}, map[string]string{}
	var have []block
	for range 500 {
		want := random()
		goal := map[string][]string{}
		flat(want, "", goal, heads, keys)
		for _, c := range changes(have, want) {
			m.do(t, c, heads, keys)
		}
		for _, lines := range goal {
			slices.Sort(lines)
		}
		for p, lines := range m.said {
			slices.Sort(lines)
			if p == "" && len(lines) == 0 {
				delete(m.said, p)
			}
		}
		if diff := cmp.Diff(goal, m.said); diff != "" || len(m.at) != 0 {
			t.Fatalf("not there (in %v): %s\nfrom\n%s\nto\n%s", m.at, diff, text(have), text(want))
		}
		have = want
	}
}
