module gapura

go 1.24
