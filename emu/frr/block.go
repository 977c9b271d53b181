package frr

import (
	"cmp"
	"slices"
	"strings"
)

// block is a part of a daemon's configuration: a command that enters it, and
// what is said inside. A daemon's whole configuration is a list of blocks, in
// an order in which each refers only to what stands before it.
type block struct {
	head   string // "": said at the top level
	lines  []line
	blocks []block
	// lasting: it is there whether configured or not (an interface), so that
	// it is emptied and not removed.
	lasting bool
}

// line is one command. A command that sets a value has as key the words before
// the value: it is replaced by one with the same key, and taken back by the
// key alone.
type line struct{ text, key string }

func (l line) is(m line) bool {
	if l.key != "" {
		return l.key == m.key
	}
	return l.text == m.text
}

// say are lines that are there or not.
func say(texts ...string) []line {
	lines := make([]line, len(texts))
	for i, t := range texts {
		lines[i] = line{text: t}
	}
	return lines
}

// set is a line that sets the value of key.
func set(key, value string) line { return line{text: key + " " + value, key: key} }

// no takes a command back.
func no(text string) string {
	if rest, negative := strings.CutPrefix(text, "no "); negative {
		return rest
	}
	return "no " + text
}

// changes are the commands, in configuration mode, that lead from one
// configuration to another: first what goes, last things first, then what
// comes.
func changes(have, want []block) []string {
	return append(removals(have, want), additions(have, want)...)
}

func find(blocks []block, head string) *block {
	i := slices.IndexFunc(blocks, func(b block) bool { return b.head == head })
	if i < 0 {
		return nil
	}
	return &blocks[i]
}

func removals(have, want []block) (out []string) {
	for _, h := range slices.Backward(have) {
		w := find(want, h.head)
		if w == nil {
			if h.head != "" && !h.lasting {
				out = append(out, no(h.head))
				continue
			}
			w = &block{}
		}
		inside := removals(h.blocks, w.blocks)
		for _, l := range slices.Backward(h.lines) {
			if !slices.ContainsFunc(w.lines, l.is) {
				inside = append(inside, no(cmp.Or(l.key, l.text)))
			}
		}
		out = append(out, h.within(inside)...)
	}
	return out
}

func additions(have, want []block) (out []string) {
	for _, w := range want {
		h := find(have, w.head)
		if h == nil {
			h = &block{}
		}
		var inside []string
		for _, l := range w.lines {
			if !slices.Contains(h.lines, l) {
				inside = append(inside, l.text)
			}
		}
		inside = append(inside, additions(h.blocks, w.blocks)...)
		if len(inside) == 0 && find(have, w.head) == nil && w.head != "" {
			out = append(out, w.head, "exit") // empty, but there
			continue
		}
		out = append(out, w.within(inside)...)
	}
	return out
}

// within puts commands between the block's head and its end.
func (b block) within(commands []string) []string {
	if len(commands) == 0 || b.head == "" {
		return commands
	}
	return append(append([]string{b.head}, commands...), "exit")
}

// text is a configuration as `show running-config` would print it.
func text(blocks []block) string {
	var b strings.Builder
	write(&b, blocks, "")
	return b.String()
}

func write(b *strings.Builder, blocks []block, indent string) {
	for _, k := range blocks {
		inside := indent
		if k.head != "" {
			b.WriteString(indent + k.head + "\n")
			inside += " "
		}
		for _, l := range k.lines {
			b.WriteString(inside + l.text + "\n")
		}
		write(b, k.blocks, inside)
	}
}
