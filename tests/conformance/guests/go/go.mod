module conformance

go 1.24

require gapura v0.0.0

replace gapura => ./gapura
