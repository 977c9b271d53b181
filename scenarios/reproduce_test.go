package scenarios

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReproductionsAreSound(t *testing.T) {
	for _, effort := range []Effort{Quick, Normal, Full} {
		sc, plan, err := Reproduction("cloudnet", effort)
		require.NoError(t, err)
		require.NotEmpty(t, plan.Guests())
		ids := map[string]bool{}
		for _, c := range sc.Claims {
			ids[c.ID] = true
		}
		for _, id := range []string{"H1", "H2", "H3", "H4", "H5", "H7", "H9", "H10", "H11", "H12", "H14"} {
			require.True(t, ids[id], "claim %s is missing", id)
		}
		again, _, err := Parse("again", sc.Source)
		require.NoError(t, err)
		require.Equal(t, sc.Claims, again.Claims)
	}
	_, _, err := Reproduction("clodnet", Quick)
	require.ErrorContains(t, err, "did you mean cloudnet?")
}
