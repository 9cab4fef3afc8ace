import { must } from "../errors.ts";

/**
 * The padding with which parallel branches of any odd size see the same pixels: dilation · (kernelSize − 1) / 2.
 *
 * @throws `<block>/kernel-size` for a kernel without a middle, `<block>/padding` where another padding was asked for
 */
export function centredPadding(
  block: string,
  {
    kernelSize,
    dilation = 1,
    padding: asked,
  }: { readonly kernelSize: number; readonly dilation?: number; readonly padding?: number | undefined },
): number {
  must(
    Number.isInteger(kernelSize) && kernelSize % 2 === 1,
    `${block}/kernel-size`,
    () => `${block}: kernelSize must be odd, so that the other branches have a middle to stand in, got ${kernelSize}`,
    "usage",
  );
  const padding = (dilation * (kernelSize - 1)) / 2;
  must(
    asked === undefined || asked === padding,
    `${block}/padding`,
    () =>
      `${block}: padding must be dilation · (kernelSize − 1) / 2 = ${padding}, so that all branches see the same pixels, got ${asked}`,
    "usage",
  );
  return padding;
}
