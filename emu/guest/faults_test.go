package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// needUFFD skips where the kernel has no userfaultfd for us.
func needUFFD(t testing.TB) {
	fd, err := newUFFD(0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skipf("needs userfaultfd: %v", err)
	}
	require.NoError(t, err)
	require.NoError(t, fd.close())
}

// postCopy pauses v and lets it go on in folder with pages missing, those set in
// missing, or all. It returns what serves them.
func postCopy(t testing.TB, v *vm, folder string, missing []uint64) (*FaultListener, *Faults, *Memory, *Memory) {
	ctx := within(t)
	socket := filepath.Join(folder, "faults")
	l, err := ListenFaults(socket)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	to, err := CreateMemory(folder, v.config.Spec.Memory, missing != nil)
	require.NoError(t, err)
	t.Cleanup(func() { to.Close() })
	require.NoError(t, v.Prepare(ctx, folder, AdoptOptions{Missing: socket}))
	f, err := l.Accept(ctx, to)
	require.NoError(t, err)
	_, state, err := v.Pause(ctx)
	require.NoError(t, err)
	from, err := OpenMemory(v.config.Folder)
	require.NoError(t, err)
	t.Cleanup(func() { from.Close() })
	if missing != nil {
		copy(to.Bytes(), from.Bytes())
		require.NoError(t, to.Discard(missing))
	}
	_, err = v.Adopt(ctx, folder, state, AdoptOptions{Missing: socket})
	require.NoError(t, err)
	return l, f, from, to
}

// serve places the pages that are asked for until ctx ends, and then the rest.
func serveAll(t testing.TB, f *Faults, from *Memory, asked time.Duration) (demanded int) {
	ctx, cancel := context.WithTimeout(within(t), asked)
	defer cancel()
	for {
		page, err := f.Next(ctx)
		if ctx.Err() != nil {
			break
		}
		require.NoError(t, err)
		placed, err := f.Place(page, from.Bytes()[page*PageSize:][:PageSize])
		require.NoError(t, err)
		if placed {
			demanded++
		}
	}
	for page := range from.Pages() {
		_, err := f.Place(page, from.Bytes()[page*PageSize:][:PageSize])
		require.NoError(t, err)
	}
	return demanded
}

// idleVM is a small guest without clients.
func quietVM(t testing.TB, workload string) *vm {
	here := host(t)
	s := Spec{Name: "shop", Memory: 8 << 20, Workload: workload, Seed: 3}
	makeFiles(t, here, s)
	v := boot(t, here, s)
	v.stepsMore(5)
	return v
}

func TestGuestRunsWhilePagesAreMissing(t *testing.T) {
	needUFFD(t)
	v := quietVM(t, SPECjbb)
	there := host(t)
	_, f, from, to := postCopy(t, v, there, nil)
	demanded := serveAll(t, f, from, 200*time.Millisecond)
	require.Positive(t, demanded)
	require.NoError(t, f.Close())
	st := v.stepsMore(100)
	require.Empty(t, st.Fault)
	require.Equal(t, there, st.Folder)
	missing, err := to.Absent(make([]uint64, words(to.Pages())))
	require.NoError(t, err)
	require.Zero(t, missing)
	t.Logf("%d of %d pages were asked for", demanded, from.Pages())
	// What the guest has not written is what the source has. It goes on writing,
	// so its word counts after the page was read.
	require.Positive(t, to.Written(make([]uint64, words(to.Pages()))))
	for p := range to.Pages() {
		same := string(from.Bytes()[p*PageSize:][:PageSize]) == string(to.Bytes()[p*PageSize:][:PageSize])
		require.True(t, same || to.WrittenPage(p), "page %d is neither what it was nor written", p)
	}
}

// An agent dies after it was told of a page: its successor is told again.
func TestMissingPagesOutliveTheirServer(t *testing.T) {
	needUFFD(t)
	v := quietVM(t, MMuncher)
	there := host(t)
	missing := make([]uint64, words(2048))
	for p := 100; p < 2000; p++ {
		missing[p/64] |= 1 << (p % 64)
	}
	l, f, from, to := postCopy(t, v, there, missing)
	ctx := within(t)
	page, err := f.Next(ctx)
	require.NoError(t, err)
	// Killed: descriptor and socket are closed and nothing is said.
	require.NoError(t, f.file.Close())
	require.NoError(t, f.conn.Close())

	st, err := v.Status(ctx) // answers though the guest stands
	require.NoError(t, err)
	require.Empty(t, st.Fault)
	require.NoError(t, v.Prepare(ctx, there, AdoptOptions{Missing: filepath.Join(there, "faults")}))
	f, err = l.Accept(ctx, to)
	require.NoError(t, err)
	again, err := f.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, page, again)
	left := make([]uint64, words(to.Pages()))
	n, err := to.Absent(left)
	require.NoError(t, err)
	require.Equal(t, 1900, n)
	placed, err := f.Place(page, from.Bytes()[page*PageSize:][:PageSize])
	require.NoError(t, err)
	require.True(t, placed)
	placed, err = f.Place(page, from.Bytes()[page*PageSize:][:PageSize])
	require.NoError(t, err)
	require.False(t, placed, "a page is there once")
	serveAll(t, f, from, 50*time.Millisecond)
	require.NoError(t, f.Close())
	require.Empty(t, v.stepsMore(300).Fault)
}

func TestFaultsEndWithTheirGuest(t *testing.T) {
	needUFFD(t)
	v := quietVM(t, Idle)
	_, f, _, _ := postCopy(t, v, host(t), nil)
	v.kill()
	_, err := f.Next(within(t))
	for err == nil {
		_, err = f.Next(within(t))
	}
	require.ErrorContains(t, err, "the guest is gone")
	f.Close()
}

func TestFaultsWaitNoLongerThanAsked(t *testing.T) {
	needUFFD(t)
	v := quietVM(t, Idle)
	l, f, from, _ := postCopy(t, v, host(t), nil)
	serveAll(t, f, from, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := f.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = l.Accept(ctx, from)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, f.Close())
}

func TestAbsentKnowsHoles(t *testing.T) {
	dir := host(t)
	m, err := CreateMemory(dir, 1<<20, true)
	require.NoError(t, err)
	defer m.Close()
	bits := make([]uint64, words(m.Pages()))
	n, err := m.Absent(bits)
	require.NoError(t, err)
	require.Zero(t, n)
	want := []uint64{0b1011, 0, 1 << 63, 1}
	require.NoError(t, m.Discard(want))
	n, err = m.Absent(bits)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Equal(t, want, bits)
	empty, err := CreateMemory(host(t), 1<<20, false)
	require.NoError(t, err)
	defer empty.Close()
	n, err = empty.Absent(bits)
	require.NoError(t, err)
	require.Equal(t, empty.Pages(), n)
	_, err = os.Stat(filepath.Join(dir, MemoryFile))
	require.NoError(t, err)
}

// A guest that was prepared for missing pages may find them all there.
func TestPreparedForMissingPagesThatAreThere(t *testing.T) {
	needUFFD(t)
	v := quietVM(t, TPCW)
	there := host(t)
	ctx := within(t)
	socket := filepath.Join(there, "faults")
	l, err := ListenFaults(socket)
	require.NoError(t, err)
	defer l.Close()
	v.copyTo(there)
	to, err := OpenMemory(there)
	require.NoError(t, err)
	defer to.Close()
	require.NoError(t, v.Prepare(ctx, there, AdoptOptions{Missing: socket}))
	f, err := l.Accept(ctx, to)
	require.NoError(t, err)
	_, state, err := v.Pause(ctx)
	require.NoError(t, err)
	from, err := OpenMemory(v.config.Folder)
	require.NoError(t, err)
	defer from.Close()
	copy(to.Bytes(), from.Bytes())
	_, err = v.Adopt(ctx, there, state, AdoptOptions{})
	require.NoError(t, err)
	require.Empty(t, v.stepsMore(100).Fault)
	require.NoError(t, f.Close())

	// Its memory can be missing pages again at the next host.
	v.config.Folder = there
	_, f, from, _ = postCopy(t, v, host(t), nil)
	serveAll(t, f, from, 20*time.Millisecond)
	require.NoError(t, f.Close())
	require.Empty(t, v.stepsMore(100).Fault)
}
