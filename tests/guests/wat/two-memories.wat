;; world: validator
;; Takes all the memory there is, a page at a time, from two memories in turn.
(memory $second 0)
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (loop $again
    (drop (memory.grow $memory (i32.const 1)))
    (drop (memory.grow $second (i32.const 1)))
    (br $again))
  (unreachable))
