package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTrialsDoneElsewhereAreAdopted(t *testing.T) {
	inside, outside := newStore(t), newStore(t)
	var letters [][]byte
	inside.OnPublish(func(dir string) error {
		packed, err := PackTrial(dir)
		letters = append(letters, packed)
		return err
	})
	point := map[string]string{"sites": "2"}
	addTrial(t, inside, "e", point, 1, 0.5)
	addTrial(t, inside, "e", point, 2, 0.75)
	require.Len(t, letters, 2)
	for _, packed := range letters {
		record, err := outside.Adopt(packed)
		require.NoError(t, err)
		require.Equal(t, StatusOK, record.Status)
		_, err = outside.Adopt(packed)
		require.ErrorIs(t, err, ErrDone)
	}
	want, err := inside.Samples()
	require.NoError(t, err)
	got, err := reopen(t, outside).Samples()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.FileExists(t, filepath.Join(outside.Dir(), "trials", "e", "sites=2", "1", "matrix.json"))

	again, err := PackTrial(filepath.Join(inside.Dir(), "trials", "e", "sites=2", "1"))
	require.NoError(t, err)
	require.Equal(t, letters[0], again, "the same bytes whenever it is packed")
}

func TestHalfAPackedTrialIsRefused(t *testing.T) {
	inside, outside := newStore(t), newStore(t)
	addTrial(t, inside, "e", nil, 1, 1)
	packed, err := PackTrial(filepath.Join(inside.Dir(), "trials", "e", "default", "1"))
	require.NoError(t, err)
	for n := 0; n < len(packed); n += 301 {
		_, err := outside.Adopt(packed[:n])
		require.Error(t, err, "%d bytes", n)
	}
	found, err := os.ReadDir(outside.Dir())
	require.NoError(t, err)
	for _, e := range found {
		require.True(t, e.Name() == "run.json" || strings.HasPrefix(e.Name(), "."), e.Name())
	}
}
