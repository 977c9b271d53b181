package replicate

import (
	"bytes"
	"testing"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// What comes from outside may be anything: no reader panics, and what one takes
// for true is written again as it was.

func FuzzList(f *testing.F) {
	f.Add(appendList(nil, []uint32{0, 1, 2, 7, 9}), 10)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1}, 100)
	f.Add([]byte{2, 0, 0, 0, 1}, 8)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		if limit < 1 || limit > 1<<20 {
			return
		}
		list, _, err := parseList(b, nil, limit)
		if err != nil {
			return
		}
		if len(list) > codec.MaxBatch {
			t.Fatalf("%d pages", len(list))
		}
		for i, p := range list {
			if int(p) >= limit || i > 0 && p <= list[i-1] {
				t.Fatalf("page %d of %d behind %v", p, limit, list[:i])
			}
		}
		again, rest, err := parseList(appendList(nil, list), nil, limit)
		if err != nil || len(rest) != 0 || len(again) != len(list) {
			t.Fatalf("%v became %v, %v", list, again, err)
		}
	})
}

func FuzzExtents(f *testing.F) {
	f.Add(appendExtent(nil, 4096, bytes.Repeat([]byte{1}, 70000)), int64(1<<20))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 7}, int64(100))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 {
			return
		}
		total := 0
		err := eachExtent(b, size, func(off int64, data []byte) error {
			if off < 0 || off+int64(len(data)) > size {
				t.Fatalf("%d bytes at %d of %d", len(data), off, size)
			}
			total += len(data) + extentHead
			return nil
		})
		if err == nil && total != len(b) {
			t.Fatalf("%d bytes of %d were read", total, len(b))
		}
	})
}

func FuzzRecord(f *testing.F) {
	dir := f.TempDir()
	r, _, _, err := openRecords(dir)
	if err != nil {
		f.Fatal(err)
	}
	if err := r.write(&Held{Epoch: 7, Synced: true, State: []byte("state")}, appendExtent(nil, 512, []byte("extent"))); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(r.buf))
	f.Add(r.buf[:len(r.buf)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, h, extents, ok := parseRecord(b)
		if ok && len(h.State)+len(extents)+recordHead+recordTail > len(b) {
			t.Fatal("more than there is")
		}
	})
}

func FuzzWhole(f *testing.F) {
	f.Add((&whole{epoch: 3, at: 4, final: true, compare: true}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := parseWhole(b); err == nil && !bytes.Equal(w.encode(), b) {
			t.Fatalf("%x became %x", b, w.encode())
		}
	})
}
