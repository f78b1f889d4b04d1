;; world: validator
;; Counts under 10,000 names, n0000 to n9999.
(import "gapura:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))
(data (i32.const 1024) "n")
(func $digit (param $at i32) (param $of i32)
  (i32.store8 (local.get $at)
    (i32.add (i32.const 48) (i32.rem_u (local.get $of) (i32.const 10)))))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (local $n i32)
  (loop $again
    (call $digit (i32.const 1025) (i32.div_u (local.get $n) (i32.const 1000)))
    (call $digit (i32.const 1026) (i32.div_u (local.get $n) (i32.const 100)))
    (call $digit (i32.const 1027) (i32.div_u (local.get $n) (i32.const 10)))
    (call $digit (i32.const 1028) (local.get $n))
    (call $add (i32.const 1024) (i32.const 5) (i64.const 1))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get $n) (i32.const 10000))))
  (i32.const 0))
