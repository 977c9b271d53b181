package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Substrate names a kind of kernel that can carry a lab.
type Substrate string

const (
	Auto Substrate = "auto" // Host if it can, else UML
	Host Substrate = "host" // this machine's kernel; needs root and the modules
	UML  Substrate = "uml"  // User Mode Linux: an ordinary process, no root needed
	QEMU Substrate = "qemu" // a known word, not built yet
)

// Substrates are the words a user may say.
var Substrates = []Substrate{Auto, Host, UML, QEMU}

// ParseSubstrate reads a word given by the user; the empty word is Auto.
func ParseSubstrate(word string) (Substrate, error) {
	if word == "" {
		return Auto, nil
	}
	names := make([]string, 0, len(Substrates))
	for _, s := range Substrates {
		if word == string(s) {
			return s, nil
		}
		names = append(names, string(s))
	}
	return "", fmt.Errorf("kernel %q is not known: want one of %s", word, strings.Join(names, ", "))
}

// Unusable says that a lab cannot run on this machine as asked, what is
// missing, and how it is mended. Programs exit with code 3 on it.
type Unusable struct {
	Substrate Substrate
	Missing   string // what is not there, in words
	Fix       string // a command or an act that mends it; may be empty
}

func (e *Unusable) Error() string {
	s := fmt.Sprintf("kernel %s cannot carry a lab here: %s", e.Substrate, e.Missing)
	if e.Fix != "" {
		s += "\n  mend it: " + e.Fix
	}
	return s
}

// IsUnusable tells whether err comes of an environment that cannot run a lab.
func IsUnusable(err error) bool {
	var u *Unusable
	return errors.As(err, &u)
}

// Choose settles want to a substrate that was proven to work here, Host or
// UML. The error is an *Unusable where none does.
func Choose(ctx context.Context, want Substrate) (Substrate, error) {
	return "", &Unusable{Substrate: want, Missing: "not written", Fix: ""}
}
