package stock

import "errors"

// Missing says what was looked for and is not there, or is not fit for use.
type Missing struct {
	What string // in words, with the places looked at
	Fix  string // a command or an act that mends it; may be empty
}

func (e *Missing) Error() string {
	if e.Fix == "" {
		return e.What
	}
	return e.What + "\n  mend it: " + e.Fix
}

// IsMissing tells whether err comes of something that is not there.
func IsMissing(err error) bool {
	var m *Missing
	return errors.As(err, &m)
}
