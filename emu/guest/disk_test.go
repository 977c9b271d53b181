package guest

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func newDisk(t testing.TB) *Disk {
	d, err := CreateDisk(host(t), minDisk)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// deafMirror takes reports and acknowledges nothing until it is told to.
type deafMirror struct{ acked []func() }

func (m *deafMirror) report(_ int64, _ []byte, acked func()) { m.acked = append(m.acked, acked) }
func (m *deafMirror) close() {
	for _, a := range m.acked {
		a()
	}
}

func TestDiskMarksWhatIsWritten(t *testing.T) {
	d := newDisk(t)
	_, err := d.Begin(make([]byte, PageSize+1), 3*PageSize-1)
	require.NoError(t, err)
	bits := make([]uint64, words(d.Blocks()))
	require.Equal(t, 2, d.Collect(bits))
	require.Equal(t, uint64(0b1100), bits[0])
	_, err = d.Begin([]byte{1}, d.Size())
	require.ErrorContains(t, err, "write 1 bytes at 1048576")
	same, err := OpenDisk(d.Folder())
	require.NoError(t, err)
	defer same.Close()
	require.Zero(t, same.Collect(bits))
	_, err = d.Begin([]byte{1}, 0)
	require.NoError(t, err)
	require.True(t, same.Dirty(0), "the bitmap is shared")
}

func TestWritesThatNobodyAcknowledgedGoAlong(t *testing.T) {
	from, to := newDisk(t), newDisk(t)
	m := &deafMirror{}
	from.setMirror(m)
	first, err := from.Begin([]byte("first"), 5*PageSize)
	require.NoError(t, err)
	second, err := from.Begin([]byte("second"), 6*PageSize)
	require.NoError(t, err)
	m.acked[0]()
	require.True(t, isClosed(first.Done()))
	require.False(t, isClosed(second.Done()), "nobody has acknowledged it")
	require.NoError(t, from.HandOver(to))
	require.True(t, isClosed(second.Done()))
	b := make([]byte, 6)
	_, err = to.ReadAt(b, 6*PageSize)
	require.NoError(t, err)
	require.Equal(t, "second", string(b))
	_, err = to.ReadAt(b, 5*PageSize)
	require.NoError(t, err)
	require.True(t, string(b) == "\x00\x00\x00\x00\x00\x00", "the mirror has seen to the first")
}

func TestLedgerRecoversWhatItRecorded(t *testing.T) {
	d := newDisk(t)
	l, err := formatLedger(d, 9)
	require.NoError(t, err)
	want := map[uint64]uint64{}
	// More than a round of records, so that snapshots are needed.
	for i := range uint64(3*records + 17) {
		client := i % 5
		_, err := l.add(client, want[client]+1)
		require.NoError(t, err)
		want[client]++
		if i%1777 == 0 {
			there, err := recoverLedger(d, 9)
			require.NoError(t, err)
			require.Equal(t, want, there.counts, "after %d", i)
			l = there // as after a crash
		}
	}
	require.NoError(t, l.verify(9))
	_, err = l.add(0, want[0]+2)
	require.ErrorContains(t, err, "after")
	_, err = l.add(0, want[0])
	require.NoError(t, err, "asked for again")
	require.NoError(t, l.verify(9))
	_, err = recoverLedger(d, 8)
	require.ErrorContains(t, err, "another guest's")

	// The last record is lost: verify says so.
	at := recordPlace(l.seq)
	_, err = d.File().WriteAt(make([]byte, recordSize), at)
	require.NoError(t, err)
	require.ErrorContains(t, l.verify(9), "ends with record")
}

// A guest that is paused while a write waits for the mirror answers its client
// at the host it comes to, and the write is there.
func TestAWriteUnderWayMovesToo(t *testing.T) {
	here, there := host(t), host(t)
	s := shop(t)
	s.Workload = Idle
	makeFiles(t, here, s)
	v := boot(t, here, s)
	ctx := within(t)
	path := filepath.Join(here, "mirror")
	srv, err := ListenMirror(path)
	require.NoError(t, err)
	defer srv.Close()
	accepted := make(chan error, 1)
	go func() { accepted <- srv.Accept(ctx) }()
	require.NoError(t, v.Mirror(ctx, path))
	require.NoError(t, <-accepted)
	c, err := Dial(ctx, v.address(), 1, 0)
	require.NoError(t, err)
	defer c.Close()
	done := make(chan error, 1)
	go func() { _, err := c.Do(ctx, Increment); done <- err }()
	_, extents, err := srv.Next(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, extents)
	_, state, err := v.Pause(ctx)
	require.NoError(t, err)
	select {
	case err := <-done:
		t.Fatalf("answered before anybody acknowledged it (%v)", err)
	default:
	}
	v.copyTo(there)
	// The copy lacks the write: the mirror had it last and lost it.
	d, err := OpenDisk(there)
	require.NoError(t, err)
	_, err = d.File().WriteAt(make([]byte, extents[0][1]), extents[0][0])
	require.NoError(t, err)
	require.NoError(t, d.Close())
	_, err = v.Adopt(ctx, there, state, AdoptOptions{})
	require.NoError(t, err)
	require.NoError(t, <-done)
	a, err := c.Do(ctx, Count)
	require.NoError(t, err)
	require.Equal(t, uint64(1), a.Value)
	require.Empty(t, v.stepsMore(3).Fault)
}
