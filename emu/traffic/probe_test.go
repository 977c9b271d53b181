package traffic

import (
	"bytes"
	"testing"
)

func TestProbeSurvivesTheWire(t *testing.T) {
	in := probe{kind: kindAnswer, nonce: 1 << 63, sender: 1, target: 2, answerer: 3, round: 4, seq: 1 << 40, sent: 6}
	var b [probeLen]byte
	in.put(b[:])
	var out probe
	if err := out.get(b[:]); err != nil || out != in {
		t.Fatalf("got %+v, %v; want %+v", out, err, in)
	}
}

func TestProbeRefusesWhatIsNotOne(t *testing.T) {
	var good [probeLen]byte
	(&probe{kind: kindProbe, sender: 1}).put(good[:])
	for name, b := range map[string][]byte{
		"empty":        nil,
		"short":        good[:probeLen-1],
		"long":         append(bytes.Clone(good[:]), 0),
		"other magic":  append([]byte("DNS!"), good[4:]...),
		"unknown kind": append(append([]byte("VPCP"), 9), good[5:]...),
		"kind 0":       append(append([]byte("VPCP"), 0), good[5:]...),
	} {
		var p probe
		if p.get(b) == nil {
			t.Errorf("%s: taken for a probe", name)
		}
	}
}

func FuzzProbe(f *testing.F) {
	var good [probeLen]byte
	(&probe{kind: kindCall, sender: 1, target: 7, seq: 3}).put(good[:])
	f.Add(good[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var p probe
		if p.get(b) != nil {
			return
		}
		var again [probeLen]byte
		p.put(again[:])
		if !bytes.Equal(again[:], b) {
			t.Fatalf("%x read and written is %x", b, again)
		}
	})
}
