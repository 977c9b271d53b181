package migrate

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

func TestMessagesComeBack(t *testing.T) {
	root := digest{1, 2, 3}
	state := []byte("registers")
	gotRoot, gotState, err := parseFinal(finalMessage(root, state))
	if err != nil || gotRoot != root || !bytes.Equal(gotState, state) {
		t.Fatal(gotRoot, gotState, err)
	}
	missing := newBitmap(100)
	missing.set(3)
	missing.set(99)
	gotRoot, gotState, gotMissing, err := parseMissing(missingMessage(root, state, missing), 100)
	if err != nil || gotRoot != root || !bytes.Equal(gotState, state) || gotMissing.count() != 2 || !gotMissing.has(99) {
		t.Fatal(gotRoot, gotState, gotMissing, err)
	}
	page := bytes.Repeat([]byte{7}, PageSize)
	rest := appendRest(appendRest(nil, 5, page), 6, zeroPage)
	var got []int
	err = parseRest(rest, 100, func(n int, data []byte) error {
		got = append(got, n)
		if n == 5 && !bytes.Equal(data, page) || n == 6 && !isZero(data) {
			t.Errorf("page %d has other bytes", n)
		}
		return nil
	})
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
}

// FuzzMessages: whatever comes, a message is understood or refused, within the
// memory that it is about.
func FuzzMessages(f *testing.F) {
	missing := newBitmap(100)
	missing.set(42)
	f.Add(finalMessage(digest{1}, []byte("state")))
	f.Add(missingMessage(digest{1}, []byte("state"), missing))
	f.Add(appendRest(nil, 5, zeroPage))
	f.Add(appendRest(nil, 99, bytes.Repeat([]byte{1}, PageSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		const pages = 100
		_, _, _ = parseFinal(b)
		if _, _, m, err := parseMissing(b, pages); err == nil && m.prev(1<<20) >= pages {
			t.Fatal("a page after the last is missing")
		}
		if m, err := parseBitmap(b, pages); err == nil && m.prev(1<<20) >= pages {
			t.Fatal("a bit after the last page")
		}
		_ = parseRest(b, pages, func(page int, data []byte) error {
			if page < 0 || page >= pages || len(data) != PageSize {
				t.Fatalf("page %d of %d bytes", page, len(data))
			}
			return nil
		})
		_, _ = parseU32(b)
		_, _ = parseU64(b)
		c := newCopier(sourceSide{&guest{from: &place{memory: make([]byte, pages*PageSize)}}}, nil, &Options{}, plan{})
		_ = c.holds(newBitmap(pages), b)
	})
}

// script is a session of which one end is a test.
type script struct {
	says []wire.Message
	at   int
}

func (s *script) Send(context.Context, wire.Type, []byte) error { return nil }
func (s *script) Flush(context.Context) error                   { return nil }
func (s *script) Waiting() time.Duration                        { return 0 }
func (s *script) Stats() wire.Stats                             { return wire.Stats{} }
func (s *script) Close() error                                  { return nil }
func (s *script) Receive(ctx context.Context) (wire.Message, error) {
	if s.at == len(s.says) {
		return wire.Message{}, context.Canceled
	}
	s.at++
	return s.says[s.at-1], nil
}

// conversation cuts bytes into messages: type, length / 16, payload.
func conversation(b []byte) (says []wire.Message) {
	for len(b) > 2 {
		n := min(int(b[1])*16, len(b)-2)
		says = append(says, wire.Message{Type: wire.Type(b[0]), Payload: b[2 : 2+n]})
		b = b[2+n:]
	}
	return says
}

// FuzzSource: a source that hears anything at all keeps its VM, or says whose
// it is.
func FuzzSource(f *testing.F) {
	f.Add([]byte{32, 0, 33, 1, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{32, 0, 34, 1, 0, 0, 0, 0, 0, 0, 0, 1, 36, 1, '{', '}'})
	f.Add([]byte{41, 3, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		g := newGuest(t, 20, 1)
		opt := Options{Algorithm: Xen5, Reuse: true}
		_, err := Send(t.Context(), Link{Bulk: &script{says: conversation(b)}}, sourceSide{g}, g.arb, opt)
		if err == nil {
			t.Fatal("a target that makes no sense was believed")
		}
		if g.arb.owner() == "source" && g.at.Load() != g.from {
			t.Fatalf("the VM does not run: %v", err)
		}
	})
}

// FuzzTarget: a target that hears anything at all starts no VM but one that it
// has whole.
func FuzzTarget(f *testing.F) {
	opt := Options{Algorithm: StopAndCopy}
	p, err := opt.plan(20)
	if err != nil {
		f.Fatal(err)
	}
	said := func(t wire.Type, payload []byte) []byte {
		for len(payload)%16 != 0 && payload[0] == '{' {
			payload = append(payload, ' ')
		}
		return append([]byte{byte(t), byte((len(payload) + 15) / 16)}, payload...)
	}
	hello := said(msgBegin, encodeJSON(begin{Algorithm: opt.Algorithm, Pages: 20, Codec: p.codec}))
	f.Add(append(hello, said(msgFinal, finalMessage(newProof(20).root(), nil))...))
	f.Add(hello)
	f.Fuzz(func(t *testing.T, b []byte) {
		g := newGuest(t, 20, 1)
		g.at.Store(nil)
		g.arb = &judge{}
		_, err := Receive(t.Context(), Link{Bulk: &script{says: conversation(b)}}, targetSide{g}, g.arb, opt)
		if err == nil {
			t.Fatal("a source that makes no sense was believed")
		}
	})
}
