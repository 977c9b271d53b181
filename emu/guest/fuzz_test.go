package guest

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// What comes from outside is read without panic, and what was read means the
// same when it is written and read again.

func FuzzRequest(f *testing.F) {
	for _, line := range []string{
		`{"id":1,"op":"pause","on":"/run/hosts/texas-1/shop","within_ms":500}`,
		`{"id":2,"op":"adopt","folder":"/f","state_bytes":3,"missing":"/s"}`,
		`{"id":9,"op":"checkpoint","connections":true}`, `{"id":10,"op":"adopt","folder":"/f","state_bytes":-1}`, `{"id":11,"op":"prepare","folder":"/f","boot":true}`,
		`{"id":3,"op":"mirror","path":""}`, `{"id":4,"op":"status"}`, `{"id":0,"op":"resume"}`, `{"id":5,"op":"boot","folder":"/f"}`, `{"id":5,"op":"boot"}`,
		`{"id":12,"op":"prepare","folder":"/f","netns":"/run/netns/h","incoming":true}`, `{"id":13,"op":"pause","netns":"/run/netns/h"}`,
		`{"id":6,"op":"pause","folder":"/f"}`, `{"id":7,"op":"status"}{}`, `{"id":8,"op":"status","more":1}`, ``,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		again, err := encodeLine(r)
		require.NoError(t, err)
		r2, err := decodeRequest(again)
		require.NoError(t, err)
		require.Equal(t, r, r2)
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"id":1,"at_ns":5,"state_bytes":3}`))
	f.Add([]byte(`{"id":2,"status":{"Folder":"/f","Running":true,"Steps":7,"Acked":1,"Fault":""}}`))
	f.Add([]byte(`{"id":0}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeReply(line)
		if err != nil {
			return
		}
		again, err := encodeLine(r)
		require.NoError(t, err)
		_, err = decodeReply(again)
		require.NoError(t, err)
	})
}

func someState() *cpuState {
	return &cpuState{
		seed: 1, pages: 16384, workload: TPCW, pauses: 2, ran: 1e9, ticks: 200, cursors: []uint64{1, 300, 1 << 40},
		rng: 1<<64 - 1, steps: 200, acked: 12, ledger: 17, draws: 9, app: []uint64{0, 0, 5}, counts: []uint64{7, 1},
	}
}

func TestStateIsWholeOrNothing(t *testing.T) {
	b := someState().encode()
	s, err := decodeState(b)
	require.NoError(t, err)
	require.Equal(t, someState(), s)
	for i := range b {
		_, err := decodeState(b[:i])
		require.Error(t, err, "cut off at %d", i)
		mangled := bytes.Clone(b)
		mangled[i] ^= 0x10
		_, err = decodeState(mangled)
		require.Error(t, err, "mangled at %d", i)
	}
}

func FuzzState(f *testing.F) {
	f.Add(someState().encode())
	f.Add((&cpuState{}).encode())
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		s2, err := decodeState(s.encode())
		require.NoError(t, err)
		require.True(t, reflect.DeepEqual(s, s2))
	})
}

func FuzzClientRequest(f *testing.F) {
	f.Add(appendRequest(nil, Buy, 7, 3))
	f.Add(append(appendRequest(nil, Browse, 7, 0), 1, 2, 3))
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, size, err := parseRequest(b)
		if err != nil || size == 0 {
			return
		}
		require.LessOrEqual(t, size, len(b))
		for i := range size {
			_, n, err := parseRequest(b[:i])
			require.NoError(t, err)
			require.Zero(t, n, "it is not whole")
		}
		again := appendRequest(nil, q.kind, q.client, q.count)
		q2, size, err := parseRequest(again)
		require.NoError(t, err)
		require.Equal(t, len(again), size)
		require.Equal(t, q, q2)
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(endAnswer(append(beginAnswer(nil), "a page"...), Browse, false, 9, 0))
	f.Add(endAnswer(append(beginAnswer(nil), "full"...), Buy, true, 0, 25))
	f.Add([]byte{255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, failed, _, err := readAnswer(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			return
		}
		again := endAnswer(append(beginAnswer(nil), a.Body...), a.Kind, failed, a.Value, int(a.Wrote/sectorSize))
		require.Equal(t, b[:len(again)], again)
	})
}

func FuzzSnapshot(f *testing.F) {
	d, err := CreateDisk(f.TempDir(), minDisk)
	require.NoError(f, err)
	l, err := formatLedger(d, 1)
	require.NoError(f, err)
	for client := range uint64(3) {
		_, err := l.add(client, 1)
		require.NoError(f, err)
	}
	require.NoError(f, l.snapshot())
	b := make([]byte, PageSize)
	_, err = d.ReadAt(b, snapshotPlace(0))
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(ledgerMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, counts, err := parseSnapshot(b); err == nil {
			require.LessOrEqual(t, len(counts), maxClients)
		}
	})
}

// someTrace is a small recording.
func someTrace(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "trace")
	w, err := createTrace(path, TraceInfo{Pages: 256, Tick: 5e6, Workload: TPCW})
	require.NoError(t, err)
	for _, pages := range [][]int{{3, 1, 3}, nil, {255, 0}} {
		for _, q := range pages {
			w.note(q)
		}
		w.tick()
	}
	require.NoError(t, w.close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func TestTraceIsWholeOrNothing(t *testing.T) {
	b := someTrace(t)
	info, ticks, err := parseTrace(b)
	require.NoError(t, err)
	require.Equal(t, TraceInfo{256, 5e6, TPCW}, info)
	require.Equal(t, []traceTick{{1, []uint32{1, 3}}, {3, []uint32{0, 255}}}, ticks)
	for i := range b {
		_, _, err := parseTrace(b[:i])
		require.Error(t, err, "cut off at %d", i)
		mangled := bytes.Clone(b)
		mangled[i] ^= 0x10
		_, _, err = parseTrace(mangled)
		require.Error(t, err, "mangled at %d", i)
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(someTrace(f))
	f.Add([]byte(traceMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, ticks, err := parseTrace(b)
		if err != nil {
			return
		}
		for _, tick := range ticks {
			for _, q := range tick.pages {
				require.Less(t, int(q), info.Pages)
			}
		}
	})
}
