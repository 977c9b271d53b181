package ask

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type question struct {
	Name string `json:"name"`
}

func serve(t *testing.T, h http.HandlerFunc) (*http.Client, string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Client(), s.URL
}

func TestLinesComeAsTheyAreSaid(t *testing.T) {
	heard := make(chan bool)
	client, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := Read(w, r, 100, &q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		say := Lines(w)
		say(question{q.Name + " 1"})
		<-heard // or the answer was kept back
		say(question{q.Name + " 2"})
	})
	a, err := Post(t.Context(), client, url, question{"row"})
	require.NoError(t, err)
	defer a.Close()
	var q question
	require.NoError(t, a.Decode(&q))
	require.Equal(t, "row 1", q.Name)
	heard <- true
	require.NoError(t, a.Decode(&q))
	require.Equal(t, "row 2", q.Name)
	require.ErrorIs(t, a.Decode(&q), io.EOF)
}

func TestWhatIsRefusedSaysWhy(t *testing.T) {
	client, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var q question
		http.Error(w, Read(w, r, 100, &q).Error(), http.StatusTeapot)
	})
	for name, body := range map[string]any{"unknown field": map[string]int{"colour": 3}, "too large": question{strings.Repeat("x", 200)}} {
		_, err := Post(t.Context(), client, url, body)
		var no *Refused
		require.True(t, errors.As(err, &no), name)
		require.Contains(t, no.Text, "body: ", name)
		require.Contains(t, no.Status, "418", name)
	}
}
