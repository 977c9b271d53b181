package wanopt

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// captured are streams of real QEMUs, of guests of 4 MiB that have just been
// switched on: testdata/<version>-<capability>.stream.gz.
func captured(tb testing.TB) map[string][]byte {
	tb.Helper()
	names, err := filepath.Glob("testdata/*.stream.gz")
	if err != nil || len(names) == 0 {
		tb.Fatalf("captured streams: %v, %v", names, err)
	}
	all := map[string][]byte{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			tb.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			tb.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			tb.Fatal(err)
		}
		_ = f.Close() // it was only read
		all[strings.TrimSuffix(filepath.Base(name), ".stream.gz")] = b
	}
	return all
}

// copier is a sink that makes the stream again by way of batches, with a memory
// in place of the codec.
type copier struct {
	tb      testing.TB
	b       builder
	blocks  blocks
	ram     []byte
	out     bytes.Buffer
	reader  reader
	pack    *zstd.Encoder
	most    int
	pages   int
	zeros   int
	heard   []string
	scratch []byte
}

// packers are shared by all copiers: they are dear to make.
var packers = sync.OnceValues(func() (*zstd.Encoder, *zstd.Decoder) {
	pack, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants
	}
	z, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return pack, z
})

func newCopier(tb testing.TB, most int) *copier {
	pack, z := packers()
	return &copier{tb: tb, most: most, reader: reader{zstd: z}, pack: pack}
}

func (c *copier) send() {
	if c.b.empty() {
		return
	}
	order, rest, err := c.reader.open(c.b.order(nil, c.pack, &c.scratch))
	if err != nil || len(rest) > 0 {
		c.tb.Fatalf("open a batch: %v, %d bytes left", err, len(rest))
	}
	for i, page := range c.b.pages {
		copy(c.ram[int(page)*pageSize:], c.b.data[i*pageSize:(i+1)*pageSize])
	}
	err = write(order, c.blocks, c.ram, func(b []byte) error {
		c.out.Write(b)
		return nil
	})
	if err != nil {
		c.tb.Fatalf("write a batch: %v", err)
	}
	c.b.reset()
}

func (c *copier) raw(b []byte) {
	for len(b) > 0 {
		if b = c.b.raw(b); c.b.full() {
			c.send()
		}
	}
}

func (c *copier) page(f found, rec []byte) {
	if c.b.full() || !f.zero && !c.b.takes(f.page, c.most) {
		c.send()
	}
	c.pages++
	if f.zero {
		c.zeros++
	}
	c.b.page(f, rec)
}

func (c *copier) memory(b blocks) bool {
	if b.pages() > 1<<16 {
		return false
	}
	c.blocks, c.ram = slices.Clone(b), make([]byte, b.pages()*pageSize)
	return true
}

func (c *copier) odd(what string) { c.heard = append(c.heard, what) }

// through sends a stream through parser and batches in pieces of sizes that
// recur, with a flush after every so many.
func through(tb testing.TB, stream []byte, sizes []int, flush int) *copier {
	c := newCopier(tb, 64)
	p := newParser(c)
	for i, rest := 0, stream; len(rest) > 0; i++ {
		n := min(len(rest), max(1, sizes[i%len(sizes)]))
		p.write(rest[:n])
		rest = rest[n:]
		if flush > 0 && i%flush == 0 {
			p.flush()
			c.send()
			if at := len(stream) - len(rest); c.out.Len() != at {
				tb.Fatalf("after %d bytes and a flush, %d have come out", at, c.out.Len())
			}
		}
	}
	p.flush()
	c.send()
	if !bytes.Equal(c.out.Bytes(), stream) {
		tb.Fatalf("%d bytes went in and others came out (%d)", len(stream), c.out.Len())
	}
	return c
}

func TestEveryByteComesOutWhereverTheStreamIsCut(t *testing.T) {
	for name, stream := range captured(t) {
		for _, cut := range []struct {
			sizes []int
			flush int
		}{
			{[]int{1 << 20}, 0},
			{[]int{1}, 0},
			{[]int{1}, 1},
			{[]int{4096}, 3},
			{[]int{4105, 9, 8, 1, 65536}, 2},
			{[]int{7, 4097, 3}, 1},
		} {
			t.Run(fmt.Sprintf("%s by %v with flush %d", name, cut.sizes, cut.flush), func(t *testing.T) {
				through(t, stream, cut.sizes, cut.flush)
			})
		}
	}
}

func TestPagesOfRealStreamsAreRecognised(t *testing.T) {
	for name, stream := range captured(t) {
		t.Run(name, func(t *testing.T) {
			c := through(t, stream, []int{100_000}, 0)
			var names []string
			for _, b := range c.blocks {
				names = append(names, b.name)
			}
			if !slices.Contains(names, "microvm.ram") {
				t.Fatalf("blocks %v, expected microvm.ram among them", names)
			}
			// All of them, but for a QEMU that compresses: there each one of
			// zeros until the first that is compressed.
			most := c.blocks.pages()
			switch {
			case strings.Contains(name, "compress"):
				if len(c.heard) == 0 {
					t.Error("compressed pages were passed on without a word")
				}
			case c.pages != most:
				t.Errorf("%d pages recognised of %d", c.pages, most)
			case len(c.heard) > 0:
				t.Errorf("odd: %v", c.heard)
			}
			t.Logf("%d bytes, %d pages, %d of zeros, odd %q", len(stream), c.pages, c.zeros, c.heard)
		})
	}
}

// made is a stream of memory of two blocks, four and two pages.
type made struct{ bytes.Buffer }

func (m *made) u64(v uint64) *made {
	m.Write(binary.BigEndian.AppendUint64(nil, v))
	return m
}

func (m *made) text(s string) *made {
	m.WriteString(s)
	return m
}

func (m *made) begin() *made {
	m.text("QEVM\x00\x00\x00\x03").text("\x01\x00\x00\x00\x07").text(string(memoryStart))
	m.u64(6*pageSize | recordSize).text("\x03ram").u64(4 * pageSize).text("\x04vram").u64(2 * pageSize)
	return m.u64(recordEnd).text("\x7e\x00\x00\x00\x07")
}

func (m *made) part() *made { return m.text("\x02\x00\x00\x00\x07") }

func (m *made) end() *made { return m.u64(recordEnd).text("\x7e\x00\x00\x00\x07") }

func (m *made) pageOf(v uint64, block string, fill byte) *made {
	m.u64(v)
	if v&recordGoesOn == 0 {
		m.WriteByte(byte(len(block)))
		m.text(block)
	}
	m.Write(bytes.Repeat([]byte{fill}, pageSize))
	return m
}

func TestWhatIsNotUnderstoodPasses(t *testing.T) {
	good := func() *made { return new(made).begin().part().pageOf(recordPage, "ram", 1).end() }
	for _, c := range []struct {
		name   string
		stream *made
		pages  int
		odd    string
	}{
		{"nothing amiss", good(), 1, ""},
		{"a page in another block", good().part().pageOf(recordPage|pageSize, "vram", 2).pageOf(recordPage|recordGoesOn, "", 3).end(), 3, ""},
		{"a record that goes on with no block", new(made).begin().part().pageOf(recordPage|recordGoesOn, "", 1).end(), 0, ""},
		{"a page behind the block's end", good().part().pageOf(recordPage, "vram", 1).pageOf(recordPage|2*pageSize, "vram", 2).end(), 2, "kind 0x8"},
		{"a block that nobody told of", good().part().pageOf(recordPage, "vram", 1).pageOf(recordPage, "flash", 2).end(), 2, "kind 0x8"},
		{"and a section after it that is understood", good().part().pageOf(recordPage, "flash", 2).end().part().pageOf(recordPage, "ram", 3).end(), 2, ""},
		{"a page of something else than zeros, told as zeros", good().part().u64(recordZero | recordGoesOn).text("\x01").end(), 1, ""},
		{"a hook of RDMA", good().part().u64(recordZero | recordGoesOn).text("\x00").u64(0x80).end(), 2, "kind 0x80"},
		{"multifd", good().part().u64(recordFlush).end(), 1, "multifd"},
		{"a delta", good().part().u64(recordXBZRLE|recordGoesOn).text("\x01\x00\x05delta").pageOf(recordPage|recordGoesOn|pageSize, "", 1).end(), 2, "xbzrle"},
		{"a delta longer than a page", good().part().u64(recordXBZRLE | recordGoesOn).text("\x01\xff\xff").end(), 1, ""},
		{"less memory than announced", (&made{}).text("\x01\x00\x00\x00\x07").text(string(memoryStart)).u64(6*pageSize | recordSize).text("\x03ram").u64(8 * pageSize), 0, "not what it has announced"},
		{"a block twice", (&made{}).text("\x01\x00\x00\x00\x07").text(string(memoryStart)).u64(6*pageSize | recordSize).text("\x03ram").u64(pageSize).text("\x03ram").u64(pageSize), 0, "not what it has announced"},
		{"no size at all", (&made{}).text("\x01\x00\x00\x00\x07").text(string(memoryStart)).u64(recordEnd), 0, "how much there is"},
		{"huge pages", (&made{}).text("\x01\x00\x00\x00\x07").text(string(memoryStart)).u64(512*pageSize|recordSize).text("\x03ram").u64(256*pageSize).u64(2<<20).text("\x01b").u64(256*pageSize).u64(recordEnd).part().pageOf(recordPage, "b", 4).end(), 1, ""},
		{"no stream of QEMU's", (&made{}).text("GET / HTTP/1.1\r\n\r\n"), 0, ""},
		{"a section's header by chance", good().text("\x02\x00\x00\x00\x07 says the device").part().pageOf(recordPage, "ram", 5).end(), 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, sizes := range [][]int{{1 << 20}, {1}, {5, 4096}} {
				got := through(t, c.stream.Bytes(), sizes, 0)
				if got.pages != c.pages {
					t.Errorf("in pieces of %v: %d pages recognised, expected %d", sizes, got.pages, c.pages)
				}
				if said := strings.Join(got.heard, "; "); c.odd == "" && said != "" || !strings.Contains(said, c.odd) {
					t.Errorf("in pieces of %v: said %q, expected %q in it", sizes, said, c.odd)
				}
			}
		})
	}
}

func TestDamagedBatchesAreRefused(t *testing.T) {
	known := blocks{{"ram", 0, 4}, {"vram", 4, 2}}
	memory := make([]byte, known.pages()*pageSize)
	entry := func(kind, n int, more ...uint64) (b []byte) {
		b = binary.AppendUvarint(b, uint64(n*entryKinds+kind))
		for _, v := range more {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	for name, order := range map[string][]byte{
		"nothing":                   {},
		"an entry that is not here": {1},
		"an entry of none":          append([]byte{1}, entry(entryRaw, 0)...),
		"two names at once":         append([]byte{1}, entry(entryNamed, 2)...),
		"bytes that are not here":   append([]byte{1}, entry(entryRaw, 9)...),
		"pages behind the last":     append([]byte{1}, entry(entryPages, 7, 0)...),
		"pages before the first":    append([]byte{1}, entry(entryPages, 1, 1)...),
		"pages from far away":       append([]byte{1}, entry(entryPages, 1, 1<<63)...),
		"a run without a beginning": append([]byte{1}, entry(entryZeros, 1)...),
		"a page too often":          append([]byte{200, 7}, bytes.Repeat(append(entry(entryPages, 1, 0), entry(entryPages, 1, 1)...), 500)...),
		"too many entries":          binary.AppendUvarint(nil, mostEntries+1),
		"bytes left over":           append(append([]byte{1}, entry(entryZeros, 1, 0)...), 7),
	} {
		t.Run(name, func(t *testing.T) {
			if err := write(order, known, memory, func([]byte) error { return nil }); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func FuzzEveryByteComesOut(f *testing.F) {
	for _, stream := range captured(f) {
		f.Add(stream[:min(len(stream), 40_000)], uint16(4096), uint16(9))
		f.Add(stream[max(0, len(stream)-20_000):], uint16(1), uint16(5000))
	}
	f.Add(new(made).begin().part().pageOf(recordPage, "ram", 1).end().Bytes(), uint16(1), uint16(8))
	f.Fuzz(func(t *testing.T, stream []byte, first, second uint16) {
		through(t, stream, []int{int(first), int(second)}, 3)
	})
}

func FuzzBatches(f *testing.F) {
	known := blocks{{"ram", 0, 4}, {"vram", 4, 2}}
	memory := make([]byte, known.pages()*pageSize)
	var b builder
	b.raw([]byte("QEVM"))
	b.page(found{page: 1, named: true}, make([]byte, pageSize))
	b.page(found{page: 2, zero: true}, nil)
	f.Add(b.order(nil, nil, new([]byte)))
	z, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, batch []byte) {
		r := reader{zstd: z}
		order, _, err := r.open(batch)
		if err != nil {
			return
		}
		n := 0
		_ = write(order, known, memory, func(b []byte) error {
			n += len(b)
			return nil
		})
		if most := mostOrder + codec.MaxBatch*(pageSize+264) + 2*mostZeros*264; n > most {
			t.Errorf("a batch of %d bytes stands for %d", len(batch), n)
		}
	})
}
