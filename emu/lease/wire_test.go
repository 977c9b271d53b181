package lease

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// samples has a packet of each kind that parties send.
func samples() (all []packet) {
	for kind := Look; kind <= Answer; kind++ {
		for re := Kind(0); re <= Answer; re++ {
			if !kind.answers(re) {
				continue
			}
			all = append(all, packet{"shop-of-the-north", 1<<63 | 5, Message{
				Kind: kind, From: Party(kind % 3), Boot: 7, Asked: 1 << 40, Record: Record{Gen: 3, Holder: Party(re % 2), InSync: kind%2 == 0},
				Plain: kind == Claim, Handed: kind == Take, Re: re, OK: kind == Answer, Left: 1500 * time.Microsecond,
			}})
		}
	}
	return all
}

func TestPacketsComeBackAsTheyWere(t *testing.T) {
	for _, p := range samples() {
		b := p.append(nil)
		if got, err := parse(b); err != nil || got != p {
			t.Errorf("%+v became %+v, %v", p, got, err)
		}
		for cut := range b {
			if _, err := parse(b[:cut]); err == nil {
				t.Errorf("%v: taken with %d of %d bytes", p.Message, cut, len(b))
			}
		}
	}
	odd := packet{"s", 1, Message{Kind: Answer, Re: Take, Left: 1}}
	if p, err := parse(odd.append(nil)); err != nil || p.Left != time.Microsecond {
		t.Errorf("a nanosecond is left, and %v arrives: want it rounded up (%v)", p.Left, err)
	}
}

func TestPacketsThatNobodySends(t *testing.T) {
	good := samples()[0].append(nil)
	for name, spoil := range map[string]func(b []byte) []byte{
		"another protocol":        func(b []byte) []byte { b[0] = 'X'; return b },
		"of the next version":     func(b []byte) []byte { b[2] = 2; return b },
		"of no kind":              func(b []byte) []byte { b[3] = 0; return b },
		"of an unknown kind":      func(b []byte) []byte { b[3] = byte(Answer) + 1; return b },
		"from a fourth":           func(b []byte) []byte { b[4] = 3; return b },
		"a question as an answer": func(b []byte) []byte { b[5] = byte(Renew); return b },
		"flags of the future":     func(b []byte) []byte { b[6] = flagsEnd; return b },
		"of no VM":                func(b []byte) []byte { b[7] = 0; return b[:headerSize] },
		"a name and more":         func(b []byte) []byte { return append(b, '!') },
		"before time began":       func(b []byte) []byte { b[24] = 0x80; return b },
	} {
		if p, err := parse(spoil(bytes.Clone(good))); err == nil {
			t.Errorf("%s: taken as %+v", name, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range samples() {
		f.Add(p.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		if again := p.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is written as %x", b, p, again)
		}
		// Whatever it says, a host and a witness take it without harm.
		h := NewHolder(modelConfig, HostA, Machine, 1, base)
		p.To = HostA
		h.Receive(base, p.Message)
		if _, active := h.Active(base); active && (p.Kind != Answer || p.Boot != 1) {
			t.Errorf("%v makes a host that has just started active", p.Message)
		}
		w := NewWitness(modelConfig, Record{Gen: 1}, 0, base)
		w.Receive(base, p.Message)
	})
}

func TestRecordsOfAWitness(t *testing.T) {
	dir := t.TempDir()
	c := Config{VM: "a/../b c", Instance: 9, Members: members("texas-h1", "illinois-h1", "oregon-h1")}
	r := Record{Gen: 7, Holder: HostB, InSync: true}
	if err := keep(c, time.Second, r).write(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a%2f%2e%2e%2fb%20c.lease")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := readKept(dir, c.VM)
	if err != nil || k == nil || k.Term != time.Second {
		t.Fatalf("%+v, %v", k, err)
	}
	if got, ok, err := k.record(c); got != r || !ok || err != nil {
		t.Errorf("it is %+v, %v, %v: want %+v", got, ok, err, r)
	}
	if none, err := readKept(dir, "shop"); none != nil || err != nil {
		t.Errorf("of a VM that nobody knows there is %+v, %v", none, err)
	}
	moved := c
	moved.Members[HostA].Name = "utah-h1"
	if _, _, err := k.record(moved); err == nil {
		t.Error("a record of two other hosts is taken")
	}
	for name, spoilt := range map[string]string{
		"no holder":          strings.Replace(string(text), "illinois-h1\",\n  \"in_sync", "nobody\",\n  \"in_sync", 1),
		"half a file":        string(text[:len(text)/2]),
		"of another VM":      strings.Replace(string(text), "a/../b c", "bank", 1),
		"before the first":   strings.Replace(string(text), `"gen": 7`, `"gen": 0`, 1),
		"not one of letters": "\x00\x00\x00\x00",
	} {
		if err := os.WriteFile(path, []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := readKept(dir, c.VM)
		if err == nil {
			_, _, err = k.record(c)
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
